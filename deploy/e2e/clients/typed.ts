// What the types of a module that gatehouse schema build made of
// schemas/messages.json allow, and what they don't.
import { check, encode, is, types, type Message, type Messages, type Refusal } from "./twin/index.js";

const good: Message[] = [
  { type: "chat", room: "lobby", text: "hello", to: ["a", "b", "c"] },
  { type: "order", items: [{ kind: "book", pages: 5 }, { kind: "disc", minutes: 1.5 }], paid: null, note: 2.5 },
  { type: "shapes", name: "x", pair: [1, "a"], tree: { value: 1, below: [{ below: [] }] }, map: { a: 1 }, toString: true },
  { type: "formats", "date-time": "2026-11-29T12:00:00Z" },
];
for (const message of good) encode(message);

// @ts-expect-error a property that no schema names
encode({ type: "chat", room: "lobby", text: "hello", admin: true });
// @ts-expect-error a required property is missing
encode({ type: "chat", text: "hello" });
// @ts-expect-error of another type
encode({ type: "chat", room: 5, text: "hello" });
// @ts-expect-error no such type of message
encode({ type: "nope" });
// @ts-expect-error no branch has it
encode({ type: "order", items: [{ kind: "book", minutes: 5 }] });
// @ts-expect-error the property of what is referred to is missing
encode({ type: "shapes", pair: [1, "a"], toString: true });

const unknown: unknown = JSON.parse("{}");
const refusal: Refusal | null = check(unknown);
const name: keyof Messages | undefined = types[0];
if (is("chat", unknown)) {
  const text: string = unknown.text;
  throw new Error(`${text} ${refusal?.pointer} ${name}`);
}

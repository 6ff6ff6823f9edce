// Makes a module of schemas: what gatehouse schema build runs under Node.js.
//
//   node build.mjs PACKAGES INPUT
//
// PACKAGES is the folder with node_modules. INPUT is a JSON file: bundle (all
// schemas, under $defs), types (name -> JSON Pointer in the bundle), discriminator
// (null for a single schema), annotate, runtime (a text), header (comment lines).
// Writes {js, types} to standard output.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "package.json"));
const Ajv = require("ajv/dist/2020").default;
const { _, Name } = require("ajv");
const { mergeEvaluated } = require("ajv/dist/compile/util");
const standalone = require("ajv/dist/standalone").default;
const { compile } = require("json-schema-to-typescript");

const input = JSON.parse(await readFile(process.argv[3], "utf8"));
const names = Object.keys(input.types);
const runtime = input.runtime.slice(input.runtime.indexOf("\n\n") + 2); // without what it says of itself

function javascript() {
  // ajv needs to know which formats there are. What they allow the runtime says.
  const formats = Object.fromEntries([...input.runtime.matchAll(/^formats\["([\w-]+)"\] = /gm)].map((m) => [m[1], () => true]));
  const ajv = new Ajv({
    strict: false, logger: false, validateSchema: false, ownProperties: true, unicodeRegExp: true, messages: false,
    validateFormats: !input.annotate, formats, code: { source: true, esm: true, formats: _`formats` },
  });
  mend(ajv);
  ajv.addSchema(input.bundle, "bundle");
  const exported = {};
  names.forEach((name, i) => {
    ajv.addSchema({ $ref: "bundle#" + fragment(input.types[name]) }, "type" + i);
    exported["exported" + i] = "type" + i;
  });
  let code = standalone(ajv, exported)
    .replaceAll(/require\("ajv\/dist\/runtime\/ucs2length"\)\.default/g, "characters")
    .replaceAll(/require\("ajv\/dist\/runtime\/equal"\)\.default/g, "equal")
    .replaceAll(/^"use strict";/g, "")
    .replaceAll(/export const (exported\d+) =/g, "const $1 =");
  for (const forbidden of [/\brequire\(/, /\bimport\b/, /\bexport\b/, /\beval\(/, /\bnew Function\b/]) {
    const found = forbidden.exec(code.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""'));
    if (found) throw new Error(`the code of the schemas has ${found[0]}: please report this`);
  }
  const table = names.map((name, i) => `  [${JSON.stringify(name)}]: exported${i},`).join("\n");
  return `${input.header}
${runtime}
const discriminator = ${JSON.stringify(input.discriminator)};

export const types = ${JSON.stringify(names)};

${code}

const validators = {
  __proto__: null,
${table}
};
`;
}

// mend makes ajv decide as a node does by keywords by which it would not.
function mend(ajv) {
  const change = (keyword, changed) => {
    const definition = ajv.getKeyword(keyword);
    Object.assign(definition, changed(definition.code));
  };
  // Where an array ends before the first item to look at, ajv skips the keywords that follow.
  change("prefixItems", (code) => ({
    trackErrors: true,
    code(cxt) {
      cxt.ok = () => cxt.gen.if(_`errors === ${cxt.errsCount}`);
      code(cxt);
    },
  }));
  // ajv looks strings up in an object, where __proto__ is no name, and takes the type
  // that items has for that of all items, also of those of prefixItems.
  change("uniqueItems", () => ({
    error: undefined,
    code(cxt) {
      if (cxt.schema) cxt.pass(_`unique(${cxt.data})`);
    },
  }));
  // What is evaluated is known while the code runs where there is a name for it. It may
  // be true, for all, or undefined: ajv writes into either, and compares with either.
  change("patternProperties", (code) => ({
    code(cxt) {
      const { gen, it } = cxt, { props } = it;
      if (props instanceof Name) it.props = {};
      code(cxt);
      if (props instanceof Name) it.props = mergeEvaluated.props(gen, it.props, props);
    },
  }));
  change("unevaluatedItems", (code) => ({
    code(cxt) {
      const { gen, data, it: { items } } = cxt;
      if (items instanceof Name) gen.assign(items, _`${items} === true ? ${data}.length : ${items} ?? 0`);
      code(cxt);
    },
  }));
  // ajv takes what every object inherits for evaluated.
  change("unevaluatedProperties", (code) => ({
    code(cxt) {
      const { gen, it: { props } } = cxt;
      if (props instanceof Name) gen.if(_`${props} !== true`, () => gen.assign(props, _`{ __proto__: null, ...${props} }`));
      code(cxt);
    },
  }));
}

function fragment(pointer) {
  return pointer.split("/").map(encodeURIComponent).join("/").replaceAll("%24", "$");
}

async function typescript() {
  const bundle = structuredClone(input.bundle);
  const properties = {};
  names.forEach((name) => {
    const pointer = input.types[name];
    let target = bundle;
    for (const step of pointer.split("/").slice(1)) target = target[step.replaceAll("~1", "/").replaceAll("~0", "~")];
    if (typeof target === "object") target.title ??= name;
    properties[name] = { $ref: "#" + fragment(pointer) };
  });
  const root = { type: "object", properties, required: names, additionalProperties: false, ...bundle };
  const text = await compile(translate(hoist(root)), "Messages", {
    additionalProperties: false, bannerComment: "", declareExternallyReferenced: true, unreachableDefinitions: false, format: true, ignoreMinAndMaxItems: true,
  });
  return `${input.header}

${text}
/** Any message that may be sent. */
export type Message = Messages[keyof Messages];

/** Why a node refuses a message: its reason, and where known the type, the place in the message and the keyword of its schema, as JSON Pointers. */
export interface Refusal {
  reason: "invalid_json" | "message_not_allowed";
  type: string;
  pointer: string;
  keyword: string;
}

export class Refused extends Error {
  refusal: Refusal;
}

/** The types of message. */
export const types: readonly (keyof Messages)[];

/** Why a node would refuse this message; null if it would not. */
export function check(message: unknown): Refusal | null;

/** Why a node would refuse this text; null if it would not. What JSON.parse does not see, it does not: a property that is there twice. */
export function checkText(text: string): Refusal | null;

/** Whether a message is of this type, and a node would not refuse it. */
export function is<T extends keyof Messages>(type: T, message: unknown): message is Messages[T];

/** The text to send; throws Refused if a node would refuse it. */
export function encode(message: Message): string;
`;
}

// Keywords that hold schemas, by name or in a list, and those that hold one.
const many = ["properties", "patternProperties", "$defs", "dependentSchemas", "allOf", "anyOf", "oneOf", "prefixItems"];
const one = ["items", "contains", "propertyNames", "not", "if", "then", "else", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"];

// hoist moves what is referred to into the root's $defs, so that references hold
// whatever is done to the schemas around it.
function hoist(root) {
  const references = [];
  const collect = (schema) => {
    if (typeof schema !== "object") return;
    if (schema.$ref?.startsWith("#")) references.push(schema);
    for (const keyword of many) Object.values(schema[keyword] ?? {}).forEach(collect);
    for (const keyword of one) if (keyword in schema) collect(schema[keyword]);
  };
  collect(root);
  const moved = new Map();
  const taken = new Set();
  for (const { $ref } of references) {
    if (moved.has($ref)) continue;
    const steps = $ref.slice(2).split("/").map((step) => decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~"));
    const key = steps.pop();
    let name = key.replace(/\.json$/, "").replaceAll(/\W+/g, "_") || "part";
    while (taken.has(name)) name += "_";
    taken.add(name);
    moved.set($ref, { name, key, within: steps.reduce((of, step) => of[step], root) });
  }
  const defs = {};
  for (const { name, key, within } of moved.values()) defs[name] = within[key];
  for (const { name, key, within } of moved.values()) within[key] = { $ref: "#/$defs/" + name };
  for (const reference of references) reference.$ref = "#/$defs/" + moved.get(reference.$ref).name;
  root.$defs = defs;
  return root;
}

// literal is the type of a value alone.
function literal(v) {
  if (typeof v !== "object" || v === null) return JSON.stringify(v);
  if (Array.isArray(v)) return `[${v.map(literal).join(", ")}]`;
  return `{ ${Object.entries(v).map(([name, of]) => `${JSON.stringify(name)}: ${literal(of)}`).join("; ")} }`;
}

// translate writes what the generator of types does not know, or overlooks, as it
// does: true and false, prefixItems, and what stands beside $ref, allOf, anyOf and
// oneOf. It returns what to put in a schema's place.
function translate(schema) {
  if (typeof schema === "boolean") return { tsType: schema ? "unknown" : "never" };
  if (typeof schema !== "object" || schema === null) return schema;
  delete schema.default;
  delete schema.examples;
  const values = "const" in schema ? [schema.const] : schema.enum ?? [];
  if (values.some((v) => typeof v === "object" && v !== null)) return { tsType: values.map(literal).join(" | ") };
  const each = (of) => Object.keys(of).forEach((key) => (of[key] = translate(of[key])));
  for (const [keyword, value] of Object.entries(schema)) {
    if (many.includes(keyword)) each(value);
    else if (one.includes(keyword) && !(keyword === "additionalProperties" && typeof value === "boolean")) schema[keyword] = translate(value);
  }
  if (Array.isArray(schema.prefixItems)) {
    schema.additionalItems = schema.items?.tsType !== "never" && (schema.items ?? true);
    schema.items = schema.prefixItems;
    delete schema.prefixItems;
  }
  const parts = ["$ref", "anyOf", "oneOf"].filter((keyword) => keyword in schema).map((keyword) => ({ [keyword]: schema[keyword] }));
  parts.push(...(schema.allOf ?? []));
  const own = {};
  for (const keyword of ["properties", "required", "patternProperties", "additionalProperties", "items", "additionalItems"]) {
    if (keyword in schema) own[keyword] = schema[keyword];
  }
  if (parts.length === 0 || (parts.length === 1 && Object.keys(own).length === 0 && !("allOf" in schema))) return schema;
  if ("properties" in own || "additionalProperties" in own || "patternProperties" in own) parts.push({ type: "object", ...own });
  else if ("items" in own) parts.push({ type: "array", ...own });
  for (const keyword of ["$ref", "anyOf", "oneOf", "type", ...Object.keys(own)]) delete schema[keyword];
  schema.allOf = parts;
  return schema;
}

try {
  process.stdout.write(JSON.stringify({ js: javascript(), types: await typescript() }));
} catch (e) {
  process.stderr.write(`Error: ${String(e.message).split("\n")[0]}\n`);
  process.exitCode = 1;
}

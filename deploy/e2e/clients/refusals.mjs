// Holds each line of a file against a module that gatehouse schema build made, and
// prints what refuses it as a line of JSON: place and keyword. Two arguments: the
// module and the file.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { checkText } = await import(pathToFileURL(process.argv[2]));
const lines = readFileSync(process.argv[3], "utf8").split("\n").slice(0, -1);
for (const line of lines) {
  const { pointer = "", keyword = "" } = checkText(line) ?? {};
  console.log(JSON.stringify({ pointer, keyword }));
}

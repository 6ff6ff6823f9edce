// Holds each line of a file against a module that gatehouse schema build made, and
// prints one character for each: . where it passes, j where it is no JSON to it, x
// where its schema refuses it. Two arguments: the module and the file.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { checkText } = await import(pathToFileURL(process.argv[2]));
const lines = readFileSync(process.argv[3], "utf8").split("\n").slice(0, -1);
const mark = { invalid_json: "j", message_not_allowed: "x" };
console.log(lines.map((line) => mark[checkText(line)?.reason] ?? ".").join(""));

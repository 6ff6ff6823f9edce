// Holds a message against its schema with ajv, for bench: for each line of input,
// a number of milliseconds, it answers with the nanoseconds of CPU time a message.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import Ajv from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

const [schema, message] = process.argv.slice(2).map((file) => readFileSync(file));
const ajv = new Ajv({ strict: false, multipleOfPrecision: 6 }); // or 19.99 would be no multiple of 0.01
addFormats(ajv);
const validate = ajv.compile(JSON.parse(schema));

function check() {
  if (!validate(JSON.parse(message.toString()))) throw new Error(ajv.errorsText(validate.errors));
}

for await (const line of createInterface({ input: process.stdin })) {
  const chunk = 1000;
  const until = process.hrtime.bigint() + BigInt(line) * 1_000_000n;
  const before = process.cpuUsage();
  let n = 0;
  do {
    for (let i = 0; i < chunk; i++) check();
    n += chunk;
  } while (process.hrtime.bigint() < until);
  const used = process.cpuUsage(before);
  console.log((used.user + used.system) * 1000 / n);
}

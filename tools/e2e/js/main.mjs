// Lets tests act through matrix-js-sdk, a Matrix client library that others wrote, with its crypto in Rust. It reads
// requests and writes answers and notes as lines of JSON; the Go package people describes them.
import "./compat.mjs";
import { createInterface } from "node:readline";
import { write } from "./lines.mjs";
import { Person } from "./person.mjs";
import { operations } from "./operations.mjs";

const people = new Map();

function failed(err) {
    return { status: err.httpStatus ?? 0, code: err.errcode ?? "", message: String(err.stack ?? err) };
}

async function answer({ id, as, do: what, in: args }) {
    if (!people.has(as)) people.set(as, new Person(as));
    try {
        const op = operations[what];
        if (!op) throw new Error(`no operation ${what}`);
        write({ id, out: await op(people.get(as), args ?? {}) });
    } catch (err) {
        write({ id, failure: failed(err) });
    }
}

// A library that loses a promise's error must not end everybody's process; the log tells.
process.on("unhandledRejection", (err) => console.error("unhandled rejection", err));

for await (const line of createInterface({ input: process.stdin })) {
    void answer(JSON.parse(line));
}
process.exit(0);

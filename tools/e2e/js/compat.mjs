// What matrix-js-sdk takes for granted of newer versions of Node, so that Debian's is enough; and standard output
// belongs to answers and notes, not to what libraries log.
import { webcrypto } from "node:crypto";
import { Console } from "node:console";

globalThis.crypto ??= webcrypto;

Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new Promise((yes, no) => {
        resolve = yes;
        reject = no;
    });
    return { promise, resolve, reject };
};

globalThis.console = new Console(process.stderr, process.stderr);
for (const level of ["debug", "log", "info", "trace"]) globalThis.console[level] = () => {};

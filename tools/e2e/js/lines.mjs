// write writes a line of JSON.
export function write(value) {
    process.stdout.write(JSON.stringify(value) + "\n");
}

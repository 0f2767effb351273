// Encrypted attachments (client-server API, "Sending encrypted attachments"): AES-CTR, and a hash of what was encrypted.
const encode = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/=+$/, "");
const decode = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const counter = (iv) => ({ name: "AES-CTR", counter: iv, length: 64 });

export async function encryptAttachment(plain) {
    const iv = new Uint8Array(16);
    crypto.getRandomValues(iv.subarray(0, 8));
    const key = await crypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const data = await crypto.subtle.encrypt(counter(iv), key, plain);
    return {
        data,
        file: { v: "v2", iv: encode(iv), key: await crypto.subtle.exportKey("jwk", key), hashes: { sha256: encode(await crypto.subtle.digest("SHA-256", data)) } },
    };
}

export async function decryptAttachment(data, file) {
    if (encode(await crypto.subtle.digest("SHA-256", data)) !== file.hashes.sha256) throw new Error("the attachment has another hash");
    const key = await crypto.subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
    return await crypto.subtle.decrypt(counter(decode(file.iv)), key, data);
}

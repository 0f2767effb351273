// A small web client on matrix-js-sdk for tests in a real browser: one person with one device. It shows what the library knows of
// the open room, and the tests look at that; what people do is app's functions.
import { ClientEvent, MemoryStore, SyncState, createClient } from "matrix-js-sdk/lib/browser-index.js";
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { decryptAttachment, encryptAttachment } from "./attachment.mjs";

logger.setLevel("warn", false);

let client = null;
let open = null; // the id of the room that is shown
let thread = null; // the id of the root of the thread that is shown
let request = null; // a verification request by another device
let emoji = null;
let secret = null;
const pictures = new Map(); // mxc address to object URL
const votes = new Map(); // poll to counts by answer

async function afterRefusal(ask, auth) {
    try {
        return await ask(null);
    } catch (err) {
        if (err.httpStatus !== 401 || !err.data?.session) throw err;
        return await ask({ ...auth, session: err.data.session });
    }
}

function enter(base, session) {
    client = createClient({
        baseUrl: base,
        userId: session.user_id,
        deviceId: session.device_id,
        accessToken: session.access_token,
        store: new MemoryStore({ localStorage }),
        timelineSupport: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => (secret ? [Object.keys(keys)[0], secret] : null),
            cacheSecretStorageKey: (_id, _info, key) => (secret = key),
        },
    });
    localStorage.setItem("session", JSON.stringify({ base, ...session }));
}

async function start() {
    await client.initRustCrypto({ cryptoDatabasePrefix: client.getDeviceId() });
    client.on(CryptoEvent.VerificationRequestReceived, (r) => (request = r));
    const prepared = new Promise((resolve) => client.on(ClientEvent.Sync, (state) => state === SyncState.Prepared && resolve()));
    await client.startClient({ initialSyncLimit: 20, threadSupport: true, lazyLoadMembers: true, pollTimeout: 20000 });
    await prepared;
    return { user: client.getUserId(), device: client.getDeviceId() };
}

const room = () => client.getRoom(open);
const send = (type, content) => client.sendEvent(open, null, type, content);
const relates = (rel_type, event_id, more) => ({ "m.relates_to": { rel_type, event_id, ...more } });

// verified shows the emoji of a verification, and resolves when it is done.
async function verified(verifier) {
    verifier.on(VerifierEvent.ShowSas, (sas) => (emoji = sas));
    await verifier.verify();
}

async function ready(r) {
    while (r.phase !== VerificationPhase.Ready && r.phase !== VerificationPhase.Started) {
        if (r.phase === VerificationPhase.Cancelled) throw new Error("the verification was cancelled: " + r.cancellationCode);
        await new Promise((resolve) => r.once(VerificationRequestEvent.Change, resolve));
    }
}

window.app = {
    register: async (base, user, password) => {
        const c = createClient({ baseUrl: base });
        enter(base, await afterRefusal((auth) => c.registerRequest({ username: user, password, ...(auth ? { auth } : {}) }), { type: "m.login.dummy" }));
        return await start();
    },
    login: async (base, user, password) => {
        const c = createClient({ baseUrl: base });
        enter(base, await c.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user }, password }));
        return await start();
    },
    resume: async () => {
        const { base, ...session } = JSON.parse(localStorage.getItem("session"));
        enter(base, session);
        return await start();
    },
    create: async (content) => (await client.createRoom(content)).room_id,
    invite: async (user) => void (await client.invite(open, user)),
    join: async (id) => void (await client.joinRoom(id)),
    open: (id) => void ([open, thread] = [id, null]),
    openThread: (id) => void (thread = id),
    text: async (body) => (await send("m.room.message", { msgtype: "m.text", body })).event_id,
    reply: async (to, body) =>
        (await send("m.room.message", { msgtype: "m.text", body, "m.relates_to": { "m.in_reply_to": { event_id: to } } })).event_id,
    react: async (to, key) => (await send("m.reaction", relates("m.annotation", to, { key }))).event_id,
    edit: async (of, body) =>
        (await send("m.room.message", { msgtype: "m.text", body: "* " + body, "m.new_content": { msgtype: "m.text", body }, ...relates("m.replace", of) }))
            .event_id,
    inThread: async (root, body) =>
        (await client.sendEvent(open, root, "m.room.message", { msgtype: "m.text", body, ...relates("m.thread", root, { is_falling_back: true, "m.in_reply_to": { event_id: root } }) }))
            .event_id,
    poll: async (question, answers) =>
        (
            await send("org.matrix.msc3381.poll.start", {
                "org.matrix.msc1767.text": question,
                "org.matrix.msc3381.poll.start": {
                    kind: "org.matrix.msc3381.poll.disclosed",
                    max_selections: 1,
                    question: { "org.matrix.msc1767.text": question },
                    answers: answers.map((a) => ({ id: a, "org.matrix.msc1767.text": a })),
                },
            })
        ).event_id,
    vote: async (poll, answer) =>
        void (await send("org.matrix.msc3381.poll.response", { "org.matrix.msc3381.poll.response": { answers: [answer] }, ...relates("m.reference", poll) })),
    endPoll: async (poll) =>
        void (await send("org.matrix.msc3381.poll.end", { "org.matrix.msc3381.poll.end": {}, "org.matrix.msc1767.text": "ended", ...relates("m.reference", poll) })),
    redact: async (event) => void (await client.redactEvent(open, event)),
    read: async () => {
        const events = room().getLiveTimeline().getEvents();
        await client.sendReadReceipt(events.at(-1));
        for (const t of room().getThreads()) await client.sendReadReceipt(t.events.at(-1) ?? t.rootEvent);
    },
    search: async (term) => {
        const found = await client.searchRoomEvents({ term });
        return found.results.map((r) => r.context.getEvent().getContent().body);
    },
    threads: async () => {
        await room().createThreadsTimelineSets();
        await room().fetchRoomThreads();
        return room()
            .getThreads()
            .map((t) => ({ root: t.id, replies: t.length, mine: t.hasCurrentUserParticipated }));
    },
    scrollBack: async () => void (await client.scrollback(room(), 50)),
    crossSign: async (password) => {
        const crypto = client.getCrypto();
        const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: client.getUserId() }, password };
        await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (ask) => afterRefusal(ask, auth) });
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => {
                const key = await crypto.createRecoveryKeyFromPassphrase();
                secret = key.privateKey;
                return key;
            },
            setupNewKeyBackup: true,
        });
    },
    // Verification by emoji: the new device asks, the other accepts, both compare and confirm.
    ask: async () => {
        const crypto = client.getCrypto();
        await crypto.userHasCrossSigningKeys(client.getUserId(), true); // it fetches them
        const r = await crypto.requestOwnUserVerification();
        window.verification = ready(r).then(async () => verified(await r.startVerification("m.sas.v1")));
    },
    accept: async () => {
        if (!request) return false;
        await request.accept();
        window.verification = (async () => {
            while (!request.verifier) await new Promise((resolve) => request.once(VerificationRequestEvent.Change, resolve));
            await verified(request.verifier);
        })();
        return true;
    },
    emoji: () => emoji?.sas.emoji?.map(([, name]) => name).join(" ") ?? "",
    confirm: async () => {
        await emoji.confirm();
        await window.verification;
    },
    trusted: async (user, device) => {
        const status = await client.getCrypto().getDeviceVerificationStatus(user, device);
        return status?.crossSigningVerified ?? false;
    },
    picture: async (msgtype, encrypted) => {
        const canvas = new OffscreenCanvas(64, 48);
        canvas.getContext("2d").fillRect(8, 8, 32, 32);
        const blob = await canvas.convertToBlob({ type: "image/png" });
        const info = { mimetype: "image/png", size: blob.size, w: 64, h: 48 };
        if (encrypted) {
            const { data, file } = await encryptAttachment(await blob.arrayBuffer());
            const { content_uri } = await client.uploadContent(new Blob([data]), { type: "application/octet-stream", includeFilename: false });
            return (await send("m.room.message", { msgtype, body: "secret.png", info, file: { ...file, url: content_uri } })).event_id;
        }
        const { content_uri } = await client.uploadContent(blob, { type: "image/png", name: "square.png" });
        if (msgtype === "avatar") return void (await client.setAvatarUrl(content_uri));
        if (msgtype === "room avatar") return void (await client.sendStateEvent(open, "m.room.avatar", { url: content_uri, info }, ""));
        if (msgtype === "m.sticker") return (await send("m.sticker", { body: "square", info, url: content_uri })).event_id;
        return (await send("m.room.message", { msgtype, body: "square.png", info, url: content_uri })).event_id;
    },
    voice: async () => {
        const { content_uri } = await client.uploadContent(new Blob([new Uint8Array(4000)], { type: "audio/ogg" }), { type: "audio/ogg", name: "voice.ogg" });
        return (
            await send("m.room.message", {
                msgtype: "m.audio", body: "voice.ogg", url: content_uri, info: { mimetype: "audio/ogg", size: 4000, duration: 1000 },
                "org.matrix.msc3245.voice": {}, "org.matrix.msc1767.audio": { duration: 1000, waveform: [1, 2, 3] },
            })
        ).event_id;
    },
};

// media fetches a file with the token, as the specification wants, and decrypts it.
function media(mxc, file, thumbnail) {
    const key = mxc + (thumbnail ? "#t" : "");
    if (!pictures.has(key)) {
        pictures.set(key, "");
        const url = client.mxcUrlToHttp(mxc, ...(thumbnail ? [32, 32, "crop"] : [undefined, undefined, undefined]), false, true, true);
        (async () => {
            const r = await fetch(url, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
            if (!r.ok) throw new Error(`${r.status} for ${url}`);
            const raw = await r.arrayBuffer();
            pictures.set(key, URL.createObjectURL(new Blob([file ? await decryptAttachment(raw, file) : raw], { type: "image/png" })));
        })().catch((err) => console.error(err));
    }
    return pictures.get(key);
}

async function count(poll) {
    const responses = await poll.getResponses();
    const last = new Map();
    for (const e of responses.getRelations().sort((a, b) => a.getTs() - b.getTs())) {
        const c = e.getContent();
        last.set(e.getSender(), (c["org.matrix.msc3381.poll.response"] ?? c["m.poll.response"])?.answers?.[0]);
    }
    const counts = {};
    for (const a of last.values()) counts[a] = (counts[a] ?? 0) + 1;
    votes.set(poll.pollId, counts);
}

function element(tag, attributes, ...children) {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    e.append(...children);
    return e;
}

function picture(mxc, file, thumbnail) {
    const url = mxc ? media(mxc, file, thumbnail) : "";
    return url ? [element("img", { src: url })] : [];
}

function shown(event) {
    const line = element("li", { id: event.getId(), class: "event" });
    const content = event.getContent();
    if (event.isRedacted()) line.append("removed");
    else if (event.isDecryptionFailure()) line.append("cannot be read");
    else line.append(`${event.getSender()}: ${content.body ?? content["org.matrix.msc1767.text"] ?? event.getType()}`);
    if (event.replacingEvent()) line.append(" (edited)");
    if (event.isEncrypted()) line.append(" [encrypted]");
    if (event.replyEventId) line.append(` in reply to ${event.replyEventId}`);
    if (content.msgtype === "m.image" || event.getType() === "m.sticker") line.append(...picture(content.url ?? content.file?.url, content.file, !content.file));
    const reactions = room().relations.getChildEventsForEvent(event.getId(), "m.annotation", "m.reaction");
    for (const [key, of] of reactions?.getSortedAnnotationsByKey() ?? []) line.append(` ${key} ${of.size}`);
    const t = room().getThread(event.getId());
    if (t?.length) line.append(` thread of ${t.length}`);
    const poll = room().polls.get(event.getId());
    if (poll) {
        void count(poll);
        // The library loses votes that arrive while it asks for those before.
        if (votes.has(poll.pollId)) line.append(" counted");
        for (const [answer, n] of Object.entries(votes.get(poll.pollId) ?? {})) line.append(` ${answer}: ${n}`);
        if (poll.isEnded) line.append(" ended");
    }
    return line;
}

const told = new Set(["m.room.message", "m.sticker", "org.matrix.msc3381.poll.start", "m.poll.start", "m.room.encrypted"]);

function list(id, events) {
    return element("ul", { id }, ...events.filter((e) => told.has(e.getType()) || e.isRedacted()).map(shown));
}

function render() {
    if (!client) return;
    const rooms = client.getRooms().map((r) => {
        const n = r.getRoomUnreadNotificationCount("total") + r.getThreads().reduce((sum, t) => sum + r.getThreadUnreadNotificationCount(t.id, "total"), 0);
        const avatar = r.getMxcAvatarUrl();
        return element("li", { id: r.roomId, class: n > 0 ? "unread" : "read" }, `${r.name} ${r.getMyMembership()} ${n}`, ...picture(avatar, null, true));
    });
    const parts = [element("ul", { id: "rooms" }, ...rooms)];
    if (room()) {
        parts.push(list("timeline", room().getLiveTimeline().getEvents()));
        const t = thread && room().getThread(thread);
        if (t) parts.push(list("thread", t.events));
    }
    document.body.replaceChildren(...parts);
}

setInterval(render, 250);

// What a Person can be asked to do: the same names and arguments as in gomatrix/operations.go.
import { Direction, MatrixEvent } from "matrix-js-sdk";
import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";

// afterRefusal passes user-interactive authentication: ask, be refused with a session, ask again with it.
async function afterRefusal(ask, auth) {
    try {
        return await ask(null);
    } catch (err) {
        if (err.httpStatus !== 401 || !err.data?.session) throw err;
        return await ask({ ...auth, session: err.data.session });
    }
}

async function register(p, { base, user, password, device }) {
    return p.enter(base, (c) =>
        afterRefusal(
            (auth) => c.registerRequest({ username: user, password, device_id: device, ...(auth ? { auth } : {}) }),
            { type: "m.login.dummy" },
        ),
    );
}

async function login(p, { base, user, password, device }) {
    const identifier = { type: "m.id.user", user };
    return p.enter(base, (c) => c.loginRequest({ type: "m.login.password", identifier, password, device_id: device }));
}

async function history(p, { room, limit }) {
    const events = [];
    const mapper = p.client.getEventMapper();
    let from = null;
    while (events.length < limit) {
        const page = await p.client.createMessagesRequest(room, from, 50, Direction.Backward);
        for (const raw of page.chunk) {
            const event = mapper({ ...raw, room_id: room });
            await p.client.decryptEventIfNeeded(event);
            events.unshift({ note: "timeline", ...p.shown(event) });
        }
        if (!page.end || page.end === from) break;
        from = page.end;
    }
    return { events };
}

async function crossSign(p, { password }) {
    const crypto = p.client.getCrypto();
    const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: p.client.getUserId() }, password };
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (ask) => afterRefusal(ask, auth) });
    let recovery;
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => {
            const key = await crypto.createRecoveryKeyFromPassphrase();
            p.secret = key.privateKey;
            recovery = key.encodedPrivateKey;
            return key;
        },
    });
    return { recovery };
}

async function verifyWith(p, { recovery }) {
    p.secret = decodeRecoveryKey(recovery);
    await p.client.getCrypto().bootstrapCrossSigning({});
    await p.client.getCrypto().crossSignDevice(p.client.getDeviceId());
}

async function trusts(p, { user, device }) {
    const crypto = p.client.getCrypto();
    const devices = await crypto.getUserDeviceInfo([user], true);
    if (!devices.get(user)?.has(device)) return { known: false };
    const status = await crypto.getDeviceVerificationStatus(user, device);
    return { known: true, signed: status?.signedByOwner ?? false };
}

export const operations = {
    register,
    login,
    start: async (p) => void (await p.start()),
    stop: async (p) => void p.client.stopClient(),
    logout: async (p) => void (await p.client.logout(true)),

    create_room: async (p, { content }) => {
        const created = await p.client.createRoom(content);
        await p.inRoom(created.room_id);
        return created;
    },
    join: async (p, { room, via, reason }) => {
        const joined = await p.client.joinRoom(room, { viaServers: via, ...(reason ? { reason } : {}) });
        await p.inRoom(joined.roomId);
        return { room_id: joined.roomId };
    },
    knock: async (p, { room, via, reason }) => p.client.knockRoom(room, { viaServers: via, reason }),
    invite: async (p, { room, user, reason }) => void (await p.client.invite(room, user, { reason })),
    leave: async (p, { room }) => void (await p.client.leave(room)),
    forget: async (p, { room }) => void (await p.client.forget(room)),
    kick: async (p, { room, user, reason }) => void (await p.client.kick(room, user, reason)),
    ban: async (p, { room, user, reason }) => void (await p.client.ban(room, user, reason)),
    unban: async (p, { room, user }) => void (await p.client.unban(room, user)),
    members: async (p, { room }) => p.client.getJoinedRoomMembers(room),

    send: async (p, { room, type, content }) => p.client.sendEvent(room, type, content),
    set_state: async (p, { room, type, key, content }) => p.client.sendStateEvent(room, type, content, key ?? ""),
    redact: async (p, { room, event, reason }) => p.client.redactEvent(room, event, undefined, { reason }),
    receipt: async (p, { room, event }) => {
        const known = p.client.getRoom(room)?.findEventById(event);
        await p.client.sendReadReceipt(known ?? new MatrixEvent({ event_id: event, room_id: room, type: "m.room.message" }));
    },
    typing: async (p, { room, typing }) => void (await p.client.sendTyping(room, typing, 30000)),
    history,

    to_device: async (p, { user, device, type, content }) =>
        void (await p.client.sendToDevice(type, new Map([[user, new Map([[device, content]])]]))),
    presence: async (p, { name, status }) => {
        p.client.setSyncPresence(name);
        await p.client.setPresence({ presence: name, status_msg: status });
    },
    display_name: async (p, { name }) => void (await p.client.setDisplayName(name)),
    profile: async (p, { user }) => p.client.getProfileInfo(user),
    set_alias: async (p, { room, alias }) => void (await p.client.createAlias(alias, room)),
    resolve: async (p, { alias }) => p.client.getRoomIdForAlias(alias),
    public_rooms: async (p, { server }) => p.client.publicRooms({ server, limit: 100 }),

    cross_sign: crossSign,
    verify_with: verifyWith,
    trusts,
};

import {
    ClientEvent,
    MatrixEventEvent,
    MemoryStore,
    RoomEvent,
    RoomMemberEvent,
    SyncState,
    createClient,
} from "matrix-js-sdk";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { write } from "./lines.mjs";

logger.setLevel("warn", false);

// Person is one device of somebody.
export class Person {
    constructor(as) {
        this.as = as;
        this.secret = null; // private key of the secret storage, if known
    }

    // enter asks for a session without an access token, and keeps it.
    async enter(base, ask) {
        const anonymous = createClient({ baseUrl: base, logger });
        const session = await ask(anonymous);
        this.client = createClient({
            baseUrl: base,
            userId: session.user_id,
            deviceId: session.device_id,
            accessToken: session.access_token,
            store: new MemoryStore(),
            logger,
            timelineSupport: true,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => (this.secret ? [Object.keys(keys)[0], this.secret] : null),
                cacheSecretStorageKey: (_id, _info, key) => (this.secret = key),
            },
        });
        const { user_id, device_id, access_token } = session;
        return { user_id, device_id, access_token };
    }

    note(kind, fields) {
        write({ as: this.as, note: kind, ...fields });
    }

    noteEvent(kind, event) {
        this.note(kind, this.shown(event));
    }

    shown(event) {
        return {
            room: event.getRoomId() ?? "",
            type: event.getType(),
            sender: event.getSender() ?? "",
            event: event.getId() ?? "",
            state_key: event.getStateKey(),
            content: event.getContent(),
            decrypted: event.isEncrypted() && !event.isDecryptionFailure() && event.getClearContent() !== null,
        };
    }

    // start uploads keys and syncs in the background, and returns when the first sync has been handled.
    async start() {
        const c = this.client;
        await c.initRustCrypto({ useIndexedDB: false });
        this.listen();
        const prepared = new Promise((resolve, reject) => {
            c.on(ClientEvent.Sync, (state, _old, data) => {
                if (state === SyncState.Prepared) resolve();
                if (state === SyncState.Error && data?.error?.errcode === "M_UNKNOWN_TOKEN") reject(data.error);
            });
        });
        await c.startClient({ initialSyncLimit: 50, pollTimeout: 20000, lazyLoadMembers: true });
        await prepared;
    }

    listen() {
        const c = this.client;
        c.on(RoomEvent.Timeline, (event, _room, toStart, _removed, data) => {
            if (toStart || !data?.liveEvent || event.status) return; // history, or an echo of what is being sent
            this.noteTimeline(event);
        });
        c.on(RoomEvent.LocalEchoUpdated, (event) => {
            if (!event.status) this.noteTimeline(event);
        });
        c.on(ClientEvent.Event, (event) => {
            const type = event.getType();
            if (type === "m.presence") this.noteEvent("presence", event);
            else if (event.isState()) this.noteEvent("state", event);
        });
        c.on(RoomEvent.Receipt, (event, room) => this.note("ephemeral", { ...this.shown(event), room: room.roomId }));
        c.on(RoomMemberEvent.Typing, (event, member) =>
            this.note("ephemeral", { ...this.shown(event), room: member.roomId }),
        );
        c.on(ClientEvent.AccountData, (event) => this.noteEvent("account_data", event));
        c.on(ClientEvent.ToDeviceEvent, (event) => this.noteEvent("to_device", event));
        c.on(RoomEvent.MyMembership, (room, membership) => {
            const kind = { invite: "invite", leave: "left_room", ban: "left_room", knock: "knocked_room" }[membership];
            if (!kind) return;
            const mine = room.currentState.getStateEvents("m.room.member", c.getUserId());
            this.note(kind, mine ? { ...this.shown(mine), room: room.roomId } : { room: room.roomId });
        });
        c.on(CryptoEvent.DevicesUpdated, (users) => this.note("devices", { content: { changed: users } }));
    }

    noteTimeline(event) {
        if (!event.isEncrypted()) {
            this.noteEvent("timeline", event);
            return;
        }
        const tell = () => {
            if (event.isBeingDecrypted() || event.isDecryptionFailure() || event.getClearContent() === null) return false;
            this.noteEvent("timeline", event);
            return true;
        };
        if (tell()) return;
        const retry = (_event, err) => {
            if (tell()) event.off(MatrixEventEvent.Decrypted, retry);
            else this.note("undecryptable", { ...this.shown(event), content: String(err ?? event.getContent().body) });
        };
        event.on(MatrixEventEvent.Decrypted, retry);
    }

    // inRoom waits until the client knows that it is in a room: before, it would not encrypt there.
    async inRoom(roomId) {
        const joined = () => this.client.getRoom(roomId)?.getMyMembership() === "join";
        if (joined() || !this.client.clientRunning) return;
        await new Promise((resolve) => {
            const look = () => {
                if (!joined()) return;
                this.client.off(ClientEvent.Sync, look);
                resolve();
            };
            this.client.on(ClientEvent.Sync, look);
        });
    }
}

package browser

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"hanse/tools/e2e/world"
)

const password = "correct horse battery staple"

// Two people in Chromium, one of them with two devices, at a cluster with two replicas of each role.
func TestTwoPeople(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	w, err := world.Start(ctx, world.Config{Servers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.DumpLogs(os.Stderr)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	b, base := Open(t), w.Servers[0].BaseURL
	anna, bert := b.Person(t, "anna"), b.Person(t, "bert")
	annaID := who(t, anna.Do("register", base, "anna", password))
	bertID := who(t, bert.Do("register", base, "bert", password))
	anna.Do("crossSign", password)

	room := anna.Text("create", map[string]any{"name": "Plain", "invite": []string{bertID.User}, "preset": "private_chat"})
	secret := anna.Text("create", map[string]any{
		"name": "Secret", "invite": []string{bertID.User}, "preset": "private_chat",
		"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}},
	})
	bert.Sees("rooms", "Plain invite", "Secret invite")
	for _, id := range []string{room, secret} {
		bert.Do("join", id)
		bert.Sees(id, "join")
	}
	plain(t, anna, bert, room, annaID.User)
	encrypted(anna, bert, secret)
	pictures(anna, bert, room, secret)
	verification(t, b, anna, base, annaID)
}

type device struct{ User, Device string }

func who(t *testing.T, raw json.RawMessage) (d device) {
	t.Helper()
	if err := json.Unmarshal(raw, &d); err != nil || d.Device == "" {
		t.Fatalf("%s: %v", raw, err)
	}
	return d
}

// plain is a conversation in a room that is not encrypted.
func plain(t *testing.T, anna, bert *Person, room, annaID string) {
	anna.Do("open", room)
	first := anna.Text("text", "shall we sail to Bergen")
	bert.Holds("an unread dot", `document.getElementById("`+room+`")?.className === "unread"`)
	bert.Do("open", room)
	bert.Sees(first, annaID+": shall we sail to Bergen")
	reply := bert.Text("reply", first, "in spring")
	anna.Sees(reply, "in spring in reply to "+first)
	bert.Do("react", first, "⛵")
	anna.Do("react", first, "⛵")
	anna.Sees(first, "⛵ 2")
	bert.Do("edit", reply, "in summer")
	anna.Sees(reply, "in summer (edited)", "-in spring")

	// A thread, whose count and replies are there after the page was loaded again.
	for _, body := range []string{"one ship", "two ships", "three ships"} {
		bert.Do("inThread", first, body)
	}
	anna.Sees(first, "thread of 3")
	for _, p := range []*Person{anna, bert} {
		p.Load()
		p.Do("resume")
		p.Do("open", room)
		p.Sees(first, "thread of 3", "⛵ 2")
		p.Do("openThread", first)
		p.Sees("thread", "one ship", "three ships")
		p.Sees(reply, "in summer (edited)")
	}
	var threads []struct {
		Root    string
		Replies int
		Mine    bool
	}
	for _, p := range []*Person{anna, bert} { // one wrote the root, the other the replies
		if err := json.Unmarshal(p.Do("threads"), &threads); err != nil || len(threads) != 1 || threads[0].Root != first || threads[0].Replies != 3 || !threads[0].Mine {
			t.Errorf("%s: threads: %+v, %v", p.name, threads, err)
		}
	}

	poll := anna.Text("poll", "Which harbour?", []string{"Visby", "Riga"})
	for _, p := range []*Person{anna, bert} {
		p.Sees(poll, "Which harbour?", "counted")
	}
	bert.Do("vote", poll, "Visby")
	anna.Do("vote", poll, "Riga")
	bert.Do("vote", poll, "Riga")
	anna.Sees(poll, "Riga: 2", "-Visby")
	anna.Do("endPoll", poll)
	bert.Sees(poll, "Riga: 2", "ended")
	bert.Load()
	bert.Do("resume")
	bert.Do("open", room)
	bert.Sees(poll, "Riga: 2", "ended")

	wrong := anna.Text("text", "the cog leaves at dawn")
	bert.Sees(wrong, "dawn")
	search := func(p *Person, term string) (found []string) {
		if err := json.Unmarshal(p.Do("search", term), &found); err != nil {
			t.Fatal(err)
		}
		return found
	}
	deadline := time.Now().Add(patience)
	for !slices.Contains(search(bert, "COG dawn"), "the cog leaves at dawn") {
		if time.Now().After(deadline) {
			t.Fatalf("not found: %q", search(bert, "COG dawn"))
		}
	}
	anna.Do("redact", wrong)
	bert.Sees(wrong, "removed", "-dawn")
	if found := search(bert, "cog dawn"); len(found) != 0 {
		t.Errorf("found after it was redacted: %q", found)
	}
	bert.Do("read")
	bert.Holds("no unread dot", `document.getElementById("`+room+`")?.className === "read"`)
}

// encrypted is a conversation in an encrypted room, which can be read after the page was loaded again.
func encrypted(anna, bert *Person, room string) {
	anna.Do("open", room)
	bert.Do("open", room)
	hello := anna.Text("text", "nobody else reads this")
	bert.Sees(hello, "nobody else reads this [encrypted]")
	answer := bert.Text("reply", hello, "I do")
	anna.Sees(answer, "I do", "[encrypted]")
	bert.Do("edit", answer, "I did")
	anna.Sees(answer, "I did (edited)")
	anna.Do("inThread", hello, "aside")
	bert.Sees(hello, "thread of 1")
	bert.Load()
	bert.Do("resume")
	bert.Do("open", room)
	bert.Sees(hello, "nobody else reads this [encrypted]", "thread of 1")
	bert.Sees(answer, "I did (edited)")
}

// pictures are sent as files, stickers, avatars and encrypted attachments.
func pictures(anna, bert *Person, room, secret string) {
	anna.Do("open", room)
	bert.Do("open", room)
	anna.Do("picture", "avatar", false)
	anna.Do("picture", "room avatar", false)
	bert.SeesPicture(room)
	bert.SeesPicture(anna.Text("picture", "m.image", false))
	bert.SeesPicture(anna.Text("picture", "m.sticker", false))
	bert.Sees(anna.Text("voice"), "voice.ogg")
	anna.Do("open", secret)
	bert.Do("open", secret)
	bert.SeesPicture(anna.Text("picture", "m.image", true))
}

// verification is that of a second device by emoji (client-server API, "Short Authentication String (SAS) verification").
func verification(t *testing.T, b *Browser, anna *Person, base string, id device) {
	second := b.Person(t, "anna-2")
	now := who(t, second.Do("login", base, "anna", password))
	second.Do("ask")
	deadline := time.Now().Add(patience)
	for string(anna.Do("accept")) != "true" {
		if time.Now().After(deadline) {
			t.Fatal("the first device was not asked")
		}
		time.Sleep(200 * time.Millisecond)
	}
	for _, p := range []*Person{anna, second} {
		p.Holds("emoji", `app.emoji() !== ""`)
	}
	if a, s := anna.Text("emoji"), second.Text("emoji"); a != s {
		t.Fatalf("the emoji differ: %s, %s", a, s)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		second.Do("confirm")
	}()
	anna.Do("confirm")
	<-done
	anna.Holds("trust in the new device", `app.trusted("`+id.User+`", "`+now.Device+`")`)
	second.Holds("trust in the old device", `app.trusted("`+id.User+`", "`+id.Device+`")`)
}

package userdb

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/userdb/db"
	logv1 "hanse/proto/log/v1"
)

// NewAccount is what CreateAccount stores.
type NewAccount struct {
	User         id.User
	PasswordHash string // argon2id in PHC form; empty: no password login
	Admin        bool
	Guest        bool
	Appservice   string // id of the application service that registered it
	Displayname  string
	CreatedTS    int64
}

// CreateAccount creates an account. It returns false if the user id is taken, also by a deactivated account.
func (d *DB) CreateAccount(ctx context.Context, a NewAccount) (created bool, err error) {
	err = d.Within(ctx, a.User, func(tx *Tx) error {
		p := db.CreateAccountParams{
			Part: tx.Part, UserID: string(a.User), PasswordHash: a.PasswordHash, Admin: a.Admin, Guest: a.Guest,
			AppserviceID: a.Appservice, CreatedTs: a.CreatedTS,
		}
		if a.Displayname != "" {
			p.Displayname = &a.Displayname
		}
		n, err := tx.CreateAccount(ctx, p)
		if err != nil || n == 0 {
			return err
		}
		created = true
		return tx.index(ctx, a.Displayname)
	})
	if err != nil {
		return false, fmt.Errorf("create account: %w", err)
	}
	return created, nil
}

// Account returns an account, or ErrNotFound.
func (d *DB) Account(ctx context.Context, user id.User) (db.Account, error) {
	q, part := d.At(user)
	a, err := q.Account(ctx, part, string(user))
	return a, notFound(err)
}

// AccountExists reports whether the user id was ever registered.
func (d *DB) AccountExists(ctx context.Context, user id.User) (bool, error) {
	q, part := d.At(user)
	return q.AccountExists(ctx, part, string(user))
}

// SetPassword replaces the password's hash. It returns ErrNotFound for an account that is missing or deactivated.
func (d *DB) SetPassword(ctx context.Context, user id.User, hash string) error {
	q, part := d.At(user)
	n, err := q.SetPassword(ctx, part, string(user), hash)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// SetAdmin makes an account an administrator's, or takes that back. It returns ErrNotFound if there is no account. All
// workers forget the user's sessions, which carry the right.
func (d *DB) SetAdmin(ctx context.Context, user id.User, admin bool) error {
	q, part := d.At(user)
	n, err := q.SetAdmin(ctx, part, string(user), admin)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err == nil {
		d.revoked(user, "")
	}
	return err
}

// ListAccounts returns up to limit accounts whose user id is greater than after and contains a text, by user id.
func (d *DB) ListAccounts(ctx context.Context, after id.User, containing string, limit int) ([]db.Account, error) {
	var all []db.Account
	err := d.eachShard(func(q *db.Queries, parts []int32) error {
		rows, err := q.ListAccounts(ctx, db.ListAccountsParams{Parts: parts, After: string(after), Containing: containing, Limit: int32(limit)})
		all = append(all, rows...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	slices.SortFunc(all, func(x, y db.Account) int { return strings.Compare(x.UserID, y.UserID) })
	return all[:min(len(all), limit)], nil
}

// Deactivate closes an account for good: no password, no devices, no tokens, no pushers, no account data, not in the
// directory; with erase no profile and no files either. Its tasks do what is left: leave the rooms, delete the files.
func (d *DB) Deactivate(ctx context.Context, user id.User, erase bool) (tasks []Task, err error) {
	kinds := []string{TaskDeactivate}
	if erase {
		kinds = append(kinds, TaskErase)
	}
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		tasks = nil
		n, err := tx.Queries.Deactivate(ctx, tx.Part, string(user), erase)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		devices, err := tx.Devices(ctx, tx.Part, string(user))
		if err != nil {
			return err
		}
		ids := make([]string, len(devices))
		for i, dev := range devices {
			ids[i] = dev.DeviceID
		}
		if _, err := tx.dropDevices(ctx, ids); err != nil {
			return err
		}
		for _, drop := range []func(context.Context, int32, string) error{
			tx.DeleteAllAccessTokens, tx.DeleteAllRefreshTokens, tx.DeleteAllPushers, tx.DeleteAllAccountData,
			tx.DeleteCrossSigningKeys, tx.DeleteSignatures, tx.DeleteWords,
		} {
			if err := drop(ctx, tx.Part, string(user)); err != nil {
				return err
			}
		}
		if err := tx.DeleteMutedTimes(ctx, tx.Part, string(user), tx.Seq); err != nil {
			return err
		}
		for _, kind := range kinds {
			task, err := tx.PutTask(ctx, Task{User: user, Kind: kind})
			if err != nil {
				return err
			}
			tasks = append(tasks, task)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("deactivate %s: %w", user, err)
	}
	d.revoked(user, "")
	return tasks, nil
}

// revoked tells all workers that tokens of a user, or of one device, are no longer valid. If the bus is down, caches
// of tokens are short-lived enough.
func (d *DB) revoked(user id.User, device id.Device) {
	_ = d.bus.PublishAuth(&logv1.AuthInvalidation{UserId: string(user), DeviceId: string(device)})
}

// Profile is a user's profile. A nil field is not set.
type Profile struct {
	Displayname *string
	AvatarURL   *string
	// Fields are all others (client-server API, "Profiles").
	Fields map[string]json.RawMessage
}

// Profile returns a profile, or ErrNotFound.
func (d *DB) Profile(ctx context.Context, user id.User) (Profile, error) {
	q, part := d.At(user)
	row, err := q.Profile(ctx, part, string(user))
	if err != nil {
		return Profile{}, notFound(err)
	}
	return profile(row.Displayname, row.AvatarUrl, row.Profile)
}

// AvatarsUsed returns those of some mxc URIs that are the avatar of a user.
func (d *DB) AvatarsUsed(ctx context.Context, uris []string) (map[string]bool, error) {
	used := make(map[string]bool)
	err := d.eachShard(func(q *db.Queries, parts []int32) error {
		found, err := q.AvatarsUsed(ctx, parts, uris)
		for _, uri := range found {
			used[uri] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("avatars that are used: %w", err)
	}
	return used, nil
}

// Profiles returns display name and avatar of those of the users that have an account.
func (d *DB) Profiles(ctx context.Context, users []id.User) (map[id.User]Profile, error) {
	out := make(map[id.User]Profile, len(users))
	for _, g := range d.groups(users) {
		rows, err := db.New(g.pool).Profiles(ctx, g.parts, g.users)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[id.User(r.UserID)] = Profile{Displayname: r.Displayname, AvatarURL: r.AvatarUrl}
		}
	}
	return out, nil
}

// Guests returns those of local users who are guests.
func (d *DB) Guests(ctx context.Context, users []id.User) ([]id.User, error) {
	var guests []id.User
	for _, g := range d.groups(users) {
		names, err := db.New(g.pool).Guests(ctx, g.parts, g.users)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			guests = append(guests, id.User(name))
		}
	}
	return guests, nil
}

// UpdateProfile changes a profile under its lock. fn says whether it changed anything that rooms must hear of; then
// the task, if it has a kind, is stored in the same transaction.
func (d *DB) UpdateProfile(ctx context.Context, user id.User, task Task, fn func(*Profile) (tell bool, err error)) (Task, bool, error) {
	var told bool
	err := d.Within(ctx, user, func(tx *Tx) error {
		row, err := tx.LockProfile(ctx, tx.Part, string(user))
		if err != nil {
			return notFound(err)
		}
		p, err := profile(row.Displayname, row.AvatarUrl, row.Profile)
		if err != nil {
			return err
		}
		if told, err = fn(&p); err != nil {
			return err
		}
		fields, err := json.Marshal(p.Fields)
		if err != nil {
			return err
		}
		err = tx.SetProfile(ctx, db.SetProfileParams{
			Part: tx.Part, UserID: string(user), Displayname: p.Displayname, AvatarUrl: p.AvatarURL, Profile: fields,
		})
		if err != nil || !told {
			return err
		}
		if task, err = tx.PutTask(ctx, task); err != nil {
			return err
		}
		name := ""
		if p.Displayname != nil {
			name = *p.Displayname
		}
		return tx.index(ctx, name)
	})
	return task, told, err
}

func profile(name, avatar *string, fields []byte) (Profile, error) {
	p := Profile{Displayname: name, AvatarURL: avatar, Fields: map[string]json.RawMessage{}}
	if err := json.Unmarshal(fields, &p.Fields); err != nil {
		return p, fmt.Errorf("stored profile: %w", err)
	}
	return p, nil
}

// maxWords bounds what the directory keeps of one user.
const maxWords = 16

// Words are what the user directory compares: the runs of letters and digits, in lower case.
func Words(texts ...string) []string {
	var words []string
	for _, t := range texts {
		for _, w := range strings.FieldsFunc(strings.ToLower(t), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			if len(w) > 64 {
				w = strings.ToValidUTF8(w[:64], "")
			}
			if !slices.Contains(words, w) && len(words) < maxWords {
				words = append(words, w)
			}
		}
	}
	return words
}

// index renews a user's words in the directory.
func (tx *Tx) index(ctx context.Context, displayname string) error {
	if err := tx.DeleteWords(ctx, tx.Part, string(tx.User)); err != nil {
		return err
	}
	local := tx.User.Localpart()
	words := Words(local, displayname)
	if whole := strings.ToLower(local); len(whole) <= 64 && !slices.Contains(words, whole) {
		words = append(words, whole)
	}
	return tx.AddWords(ctx, tx.Part, string(tx.User), words)
}

// FindUsers returns at most limit of local users who have a word with the given prefix (in lower case) on each shard.
func (d *DB) FindUsers(ctx context.Context, prefix string, limit int) ([]id.User, error) {
	var found []id.User
	err := d.eachShard(func(q *db.Queries, parts []int32) error {
		rows, err := q.UsersByWord(ctx, db.UsersByWordParams{Parts: parts, Low: prefix, High: prefix + "\U0010FFFF", Limit: int32(limit)})
		if err != nil {
			return fmt.Errorf("search users: %w", err)
		}
		for _, r := range rows {
			found = append(found, id.User(r.UserID))
		}
		return nil
	})
	return found, err
}

// UseRegistrationToken counts one use of a registration token; false: all allowed uses are spent. allowed 0 means any
// number.
func (d *DB) UseRegistrationToken(ctx context.Context, token string, allowed int64) (bool, error) {
	part := partition.Of(token)
	n, err := db.New(d.shards.For(part)).UseRegistrationToken(ctx, int32(part), token, allowed)
	return n > 0, err
}

// ReturnRegistrationToken takes back a use of a registration token that made no account.
func (d *DB) ReturnRegistrationToken(ctx context.Context, token string) error {
	part := partition.Of(token)
	return db.New(d.shards.For(part)).ReturnRegistrationToken(ctx, int32(part), token)
}

// RegistrationTokenUses returns how often a registration token was used.
func (d *DB) RegistrationTokenUses(ctx context.Context, token string) (int64, error) {
	part := partition.Of(token)
	return db.New(d.shards.For(part)).RegistrationTokenUses(ctx, int32(part), token)
}

package bus

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// The subjects. Those with a partition end in ".<part>"; AllParts in its place stands for every
// partition.
const (
	subjectRoom     = "hanse.room."
	subjectUser     = "hanse.user."
	subjectTyping   = "hanse.typing."
	subjectPresence = "hanse.presence"
	subjectAuth     = "hanse.auth"
	subjectFedout   = "hanse.fedout."
	subjectRedacted = "hanse.redacted."
	subjectKeys     = "hanse.keys"
	subjectPush     = "hanse.push."
	subjectPushers  = "hanse.pushers."
	subjectService  = "hanse.appservice.wake"
	subjectAliases  = "hanse.aliases"
	subjectServices = "hanse.appservices"
)

// maxPayload is what NATS accepts in one message (its default).
const maxPayload = 1 << 20

// splitBytes is where a batch is split: well below maxPayload, as one event can add 64 KiB and its
// envelope.
const splitBytes = 512 << 10

// Subscription ends with Stop.
type Subscription struct{ sub *nats.Subscription }

// Stop ends the subscription. A handler that is running finishes on its own.
func (s *Subscription) Stop() error { return s.sub.Unsubscribe() }

// Publish sends m on a subject. It does not wait; an error means that the message was dropped,
// which readers must survive. Most callers want one of the named methods.
func (b *Bus) Publish(subject, kind string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err == nil {
		err = b.nc.Publish(subject, data)
	}
	if err != nil {
		b.metrics.failed.WithLabelValues(kind).Inc()
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	b.metrics.published.WithLabelValues(kind).Inc()
	return nil
}

// Subscribe calls fn with each message on a subject, one at a time. What does not decode is counted
// and dropped.
func Subscribe[T any, M interface {
	*T
	proto.Message
}](b *Bus, subject string, fn func(subject string, m M)) (*Subscription, error) {
	sub, err := b.nc.Subscribe(subject, func(msg *nats.Msg) {
		m := M(new(T))
		if err := proto.Unmarshal(msg.Data, m); err != nil {
			b.log.Warn("undecodable message on the bus", "subject", msg.Subject, "err", err)
			return
		}
		fn(msg.Subject, m)
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	return &Subscription{sub}, nil
}

// PublishLog publishes a commit of a partition, after the commit. A batch that is too large for one
// message goes out as several. A batch without entries is a beacon.
func (b *Bus) PublishLog(batch *logv1.Batch) error {
	subject := roomSubject(batch.Part)
	entries := batch.Entries
	for {
		n, size := 0, 0
		for n < len(entries) {
			if size += proto.Size(entries[n]) + 8; size > splitBytes && n > 0 {
				break
			}
			n++
		}
		if n == len(batch.Entries) {
			return b.Publish(subject, "log", batch) // the usual case: it fits
		}
		piece := &logv1.Batch{
			Part: batch.Part, Epoch: batch.Epoch, Head: batch.Head - int64(len(entries)-n),
			Entries: entries[:n], CommittedUs: batch.CommittedUs,
		}
		if err := b.Publish(subject, "log", piece); err != nil {
			return err
		}
		if entries = entries[n:]; len(entries) == 0 {
			return nil
		}
	}
}

// PublishUsers says that these users, all of one partition, have got to these positions of their
// streams.
func (b *Bus) PublishUsers(part uint32, users ...*logv1.UserSeq) error {
	return b.Publish(subject(subjectUser, part), "user", &logv1.UserChanges{Users: users})
}

// UserChanged says that one user's stream has got to seq.
func (b *Bus) UserChanged(part uint32, user string, seq int64) error {
	return b.PublishUsers(part, &logv1.UserSeq{UserId: user, Seq: seq})
}

// SubscribeUsers hears the user streams of all partitions.
func (b *Bus) SubscribeUsers(fn func(*logv1.UserChanges)) (*Subscription, error) {
	return Subscribe(b, subjectUser+"*", func(_ string, m *logv1.UserChanges) { fn(m) })
}

// PublishTyping and SubscribeTyping carry typing notifications; part is the room's.
func (b *Bus) PublishTyping(part uint32, t *logv1.Typing) error {
	return b.Publish(subject(subjectTyping, part), "typing", t)
}

// SubscribeTyping hears the typing notifications of all rooms.
func (b *Bus) SubscribeTyping(fn func(*logv1.Typing)) (*Subscription, error) {
	return Subscribe(b, subjectTyping+"*", func(_ string, m *logv1.Typing) { fn(m) })
}

// PublishPresence says that somebody's presence changed.
func (b *Bus) PublishPresence(p *logv1.Presence) error {
	return b.Publish(subjectPresence, "presence", p)
}

// SubscribePresence hears all presence changes.
func (b *Bus) SubscribePresence(fn func(*logv1.Presence)) (*Subscription, error) {
	return Subscribe(b, subjectPresence, func(_ string, m *logv1.Presence) { fn(m) })
}

// PublishAuth tells all workers to forget what they hold of a user's or a device's tokens.
func (b *Bus) PublishAuth(a *logv1.AuthInvalidation) error {
	return b.Publish(subjectAuth, "auth", a)
}

// SubscribeAuth hears of tokens that are no longer valid.
func (b *Bus) SubscribeAuth(fn func(*logv1.AuthInvalidation)) (*Subscription, error) {
	return Subscribe(b, subjectAuth, func(_ string, m *logv1.AuthInvalidation) { fn(m) })
}

// PublishRedacted tells all workers to drop events from their caches.
func (b *Bus) PublishRedacted(r *logv1.Redacted) error {
	return b.Publish(subject(subjectRedacted, r.Part), "redacted", r)
}

// SubscribeRedacted hears of redacted events in all partitions.
func (b *Bus) SubscribeRedacted(fn func(*logv1.Redacted)) (*Subscription, error) {
	return Subscribe(b, subjectRedacted+"*", func(_ string, m *logv1.Redacted) { fn(m) })
}

// PublishKeys tells all workers that another server has told its verify keys anew.
func (b *Bus) PublishKeys(server string) error { return b.publishText(subjectKeys, "keys", server) }

// SubscribeKeys hears which servers have told their keys anew.
func (b *Bus) SubscribeKeys(fn func(server string)) (*Subscription, error) {
	return b.subscribeText(subjectKeys, fn)
}

// WakeAppservice says that an application service has shown itself: it is worth another attempt.
func (b *Bus) WakeAppservice(service string) error {
	return b.publishText(subjectService, "appservice", service)
}

// SubscribeAppservice hears which application services have shown themselves.
func (b *Bus) SubscribeAppservice(fn func(service string)) (*Subscription, error) {
	return b.subscribeText(subjectService, fn)
}

// PublishAliases says that a room of this cluster has other aliases now.
func (b *Bus) PublishAliases(room id.Room) error {
	return b.publishText(subjectAliases, "aliases", string(room))
}

// SubscribeAliases hears which rooms have other aliases now.
func (b *Bus) SubscribeAliases(fn func(id.Room)) (*Subscription, error) {
	return b.subscribeText(subjectAliases, func(room string) { fn(id.Room(room)) })
}

// publishText sends a message that is no more than a name.
func (b *Bus) publishText(subject, kind, text string) error {
	if err := b.nc.Publish(subject, []byte(text)); err != nil {
		b.metrics.failed.WithLabelValues(kind).Inc()
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	b.metrics.published.WithLabelValues(kind).Inc()
	return nil
}

func (b *Bus) subscribeText(subject string, fn func(string)) (*Subscription, error) {
	sub, err := b.nc.Subscribe(subject, func(msg *nats.Msg) { fn(string(msg.Data)) })
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	return &Subscription{sub}, nil
}

// PublishAppservices tells all workers that the stored registrations of application services have changed.
func (b *Bus) PublishAppservices() error {
	return b.publishText(subjectServices, "appservices", "")
}

// SubscribeAppservices hears that stored registrations have changed.
func (b *Bus) SubscribeAppservices(fn func()) (*Subscription, error) {
	return b.subscribeText(subjectServices, func(string) { fn() })
}

// WakeFedout says that there are new durable rows for destinations in this partition.
func (b *Bus) WakeFedout(part uint32) error {
	if err := b.nc.Publish(subject(subjectFedout, part), nil); err != nil {
		b.metrics.failed.WithLabelValues("fedout").Inc()
		return fmt.Errorf("wake fedout: %w", err)
	}
	return nil
}

// SubscribeFedout hears which destination partitions have new rows.
func (b *Bus) SubscribeFedout(fn func(part uint32)) (*Subscription, error) {
	sub, err := b.nc.Subscribe(subjectFedout+"*", func(msg *nats.Msg) {
		n, err := strconv.ParseUint(msg.Subject[len(subjectFedout):], 10, 32)
		if err != nil {
			b.log.Warn("unknown subject on the bus", "subject", msg.Subject)
			return
		}
		fn(uint32(n))
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe fedout: %w", err)
	}
	return &Subscription{sub}, nil
}

// WakePush says that something waits for pushers of these users, all of one partition.
func (b *Bus) WakePush(part uint32, users []id.User) error {
	return b.publishNames(subject(subjectPush, part), "push", users)
}

// SubscribePush hears for whose pushers something waits.
func (b *Bus) SubscribePush(fn func(part uint32, users []id.User)) (*Subscription, error) {
	return b.subscribeNames(subjectPush, fn)
}

// PublishPusher says that a user of a partition has set a pusher.
func (b *Bus) PublishPusher(part uint32, user id.User) error {
	return b.publishNames(subject(subjectPushers, part), "pusher", []id.User{user})
}

// SubscribePushers hears who has set a pusher.
func (b *Bus) SubscribePushers(fn func(part uint32, users []id.User)) (*Subscription, error) {
	return b.subscribeNames(subjectPushers, fn)
}

// publishNames sends user ids, in as many messages as they need.
func (b *Bus) publishNames(subject, kind string, users []id.User) error {
	for some := range slices.Chunk(users, namesAtOnce) {
		m := &logv1.UserChanges{Users: make([]*logv1.UserSeq, len(some))}
		for i, u := range some {
			m.Users[i] = &logv1.UserSeq{UserId: string(u)}
		}
		if err := b.Publish(subject, kind, m); err != nil {
			return err
		}
	}
	return nil
}

// namesAtOnce keeps messages of user ids, of 255 bytes each, below what NATS accepts.
const namesAtOnce = 1000

func (b *Bus) subscribeNames(prefix string, fn func(part uint32, users []id.User)) (*Subscription, error) {
	return Subscribe(b, prefix+"*", func(subject string, m *logv1.UserChanges) {
		part, err := strconv.ParseUint(subject[len(prefix):], 10, 32)
		if err != nil {
			b.log.Warn("unknown subject on the bus", "subject", subject)
			return
		}
		users := make([]id.User, len(m.Users))
		for i, u := range m.Users {
			users[i] = id.User(u.UserId)
		}
		fn(uint32(part), users)
	})
}

func roomSubject(part uint32) string { return subject(subjectRoom, part) }

func subject(prefix string, part uint32) string {
	return prefix + strconv.FormatUint(uint64(part), 10)
}

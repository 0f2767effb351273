package token_test

import (
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/id"
	"hanse/pkg/token"
)

func genSync(t *rapid.T) token.Sync {
	s := token.Sync{
		UserSeq: rapid.Int64Range(0, 1<<50).Draw(t, "seq"),
		Eph:     token.Ephemeral{Worker: rapid.Uint32().Draw(t, "worker"), Counter: rapid.Uint64().Draw(t, "counter")},
	}
	s.Behind = rapid.Int64Range(0, s.UserSeq).Draw(t, "behind")
	for part := range uint32(64) {
		if rapid.Bool().Draw(t, "has") {
			s.Pos = append(s.Pos, token.PartPos{Part: part, Pos: rapid.Int64Range(0, 1<<50).Draw(t, "pos")})
		}
	}
	return s
}

func TestSyncRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSync(t)
		text := s.Encode("@a:b")
		got, err := token.ParseSync(text, "@a:b")
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%+v came back as %+v, %v", s, got, err)
		}
		if _, err := token.ParseSync(text, "@b:b"); !errors.Is(err, token.ErrInvalid) {
			t.Fatalf("another user's token: %v", err)
		}
	})
}

func TestTimelineRoundTrip(t *testing.T) {
	for _, pos := range []int64{0, 1, -1, 1 << 62, -1 << 62} {
		for _, before := range []int64{0, 1, 1 << 20} {
			p, b, err := token.ParseTimeline(token.EncodeTimeline(pos, before))
			if err != nil || p != pos || b != before {
				t.Errorf("%d, %d before, came back as %d, %d before, %v", pos, before, p, b, err)
			}
		}
	}
	for _, bad := range []string{"", "t", "x1", "t01", "t+1", "t-0", "t99999999999999999999", "t1 ", "t1.", "t1.0", "t1.-1", "t1.01", "t.1", "t1.1.1"} {
		if _, _, err := token.ParseTimeline(bad); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("ParseTimeline(%q): %v", bad, err)
		}
	}
}

func FuzzParseSync(f *testing.F) {
	s := token.Sync{UserSeq: 3, Pos: []token.PartPos{{Part: 1, Pos: 300}, {Part: 63, Pos: 9}}}
	f.Add(s.Encode("@a:b"), "@a:b")
	f.Add("", "@a:b")
	f.Add("AQAAAA", "")
	f.Fuzz(func(t *testing.T, text, user string) {
		s, err := token.ParseSync(text, id.User(user))
		if err == nil && s.Encode(id.User(user)) != text {
			t.Fatalf("%q decodes to %+v, which encodes to %q", text, s, s.Encode(id.User(user)))
		}
	})
}

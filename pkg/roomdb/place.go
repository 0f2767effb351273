package roomdb

import "hanse/pkg/token"

// Place is a place in the timeline of a room. It lies just behind the event that has it. An event that came live has the
// place At(p) of its log position p. Between that and the place of the position before there is room for what came later, and
// fills a hole in the timeline there: such events take places downwards from At(p), so that the hole, what is missing still,
// is always before the lowest of them.
type Place int64

const (
	placeBits = 20
	// Start and End lie before and behind all events.
	Start Place = -1 << 61
	End   Place = 1 << 61
	// lateOrd is the ord of an event that has its place in a hole, less the place. Log positions, and the negative numbers that
	// history got before holes had places, are far above.
	lateOrd = -1 << 62
	// leastOrd is below all log positions and those negative numbers, and above lateOrd + End.
	leastOrd = -1 << 60
)

// At is the place of what came live at a log position.
func At(pos int64) Place { return Place(pos) << placeBits }

// PlaceSQL is PlaceOf in SQL, for the column ord.
const PlaceSQL = `CASE WHEN ord < -1152921504606846976 THEN ord + 4611686018427387904 ELSE ord << 20 END`

// PlaceOf is the place of an event by its ord; 0 stands for none.
func PlaceOf(ord int64) Place {
	if ord < leastOrd {
		return Place(ord - lateOrd)
	}
	return At(ord)
}

// LateOrd is the ord of an event that has a place in a hole.
func (p Place) LateOrd() int64 { return int64(p) + lateOrd }

// Before is the next lower place in a hole.
func (p Place) Before() Place {
	if p--; p&(1<<placeBits-1) == 0 {
		p-- // that of a log position
	}
	return p
}

// Pos is the log position of the last live event at or before the place, at the latest.
func (p Place) Pos() int64 { return int64(p >> placeBits) }

// Region is the log position before which the place lies, or at which.
func (p Place) Region() int64 { return int64((p + 1<<placeBits - 1) >> placeBits) }

// Token is how clients know the place.
func (p Place) Token() string {
	pos := p.Region()
	return token.EncodeTimeline(pos, int64(At(pos)-p))
}

// ParsePlace reads what Token wrote, or returns token.ErrInvalid.
func ParsePlace(text string) (Place, error) {
	pos, before, err := token.ParseTimeline(text)
	if err != nil || pos > End.Pos() || pos < Start.Pos() || before >= 1<<placeBits {
		return 0, token.ErrInvalid
	}
	return At(pos) - Place(before), nil
}

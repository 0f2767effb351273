package auth

import (
	"strconv"

	"hanse/pkg/matrix/roomversion"
)

// numbering gives the number that a rule has on the page of a room version.
// Rules come and go between versions and shift those below them:
//
//	versions      1-2  3-5  6-11  12
//	create          1    1     1   1
//	room id         -    -     -   2
//	auth events     2    2     2   3
//	m.federate      3    3     3   4
//	aliases         4    4     -   -
//	member          5    5     4   5
//	not joined      6    6     5   6
//	3rd party inv.  7    7     6   7
//	required level  8    8     7   8
//	state key       9    9     8   9
//	power levels   10   10     9  10
//	redaction      11    -     -   -
type numbering struct{ rules *roomversion.Rules }

func dotted(n int, sub ...int) string {
	b := strconv.AppendInt(make([]byte, 0, 16), int64(n), 10)
	for _, s := range sub {
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(s), 10)
	}
	return string(b)
}

// afterCreate counts the rules added between rule 1 and the auth events.
func (n numbering) afterCreate() int {
	if n.rules.RoomIDIsCreateHash {
		return 1
	}
	return 0
}

func (n numbering) afterFederate() int {
	if n.rules.SpecialAliasesAuth {
		return n.afterCreate() + 1
	}
	return n.afterCreate()
}

func (n numbering) create(sub int) string       { return dotted(1, sub) }
func (n numbering) roomID() string              { return "2" }
func (n numbering) authEvents(sub int) string   { return dotted(2+n.afterCreate(), sub) }
func (n numbering) authEventsCreate() string    { return n.authEvents(4) }
func (n numbering) authEventsRoom() string      { return n.authEvents(5 - n.afterCreate()) } // 12 has no step 4
func (n numbering) federate() string            { return dotted(3 + n.afterCreate()) }
func (n numbering) aliases(sub int) string      { return dotted(4, sub) }
func (n numbering) member(sub ...int) string    { return dotted(4+n.afterFederate(), sub...) }
func (n numbering) notJoined() string           { return dotted(5 + n.afterFederate()) }
func (n numbering) thirdPartyInvite() string    { return dotted(6+n.afterFederate(), 1) }
func (n numbering) requiredLevel() string       { return dotted(7 + n.afterFederate()) }
func (n numbering) stateKey() string            { return dotted(8 + n.afterFederate()) }
func (n numbering) powerLevels(s ...int) string { return dotted(9+n.afterFederate(), s...) }
func (n numbering) redaction(sub int) string    { return dotted(11, sub) }

// memberSection numbers the membership values within the member rule: the
// check of the authorising server stands before them since version 8.
func (n numbering) memberSection(section int, sub ...int) string {
	if n.rules.RestrictedJoin {
		section++
	}
	return n.member(append([]int{section}, sub...)...)
}

func (n numbering) authoriser() string        { return n.member(2, 1) }
func (n numbering) join(sub ...int) string    { return n.memberSection(2, sub...) }
func (n numbering) invite(sub ...int) string  { return n.memberSection(3, sub...) }
func (n numbering) leave(sub int) string      { return n.memberSection(4, sub) }
func (n numbering) ban(sub int) string        { return n.memberSection(5, sub) }
func (n numbering) knock(sub int) string      { return n.memberSection(6, sub) }
func (n numbering) joinOtherwise() string     { return n.join(6 + n.restrictedJoins()) }
func (n numbering) restrictedJoin() string    { return n.join(5, 2) }
func (n numbering) unknownMembership() string { return n.memberSection(6 + n.knocks()) }

func (n numbering) restrictedJoins() int {
	if n.rules.RestrictedJoin {
		return 1
	}
	return 0
}

func (n numbering) knocks() int {
	if n.rules.Knocking {
		return 1
	}
	return 0
}

// The steps of the power levels rule, as versions 1 to 9 number them. Version
// 10 puts two validity checks before, version 12 one more after "users".
const (
	plUsers      = 1
	plProperties = 3
	plOldEvents  = 4
	plNewEvents  = 5
	plOldUsers   = 6
	plNewUsers   = 7
)

func (n numbering) plIntegers() string { return n.powerLevels(1) }
func (n numbering) plMaps() string     { return n.powerLevels(2) }
func (n numbering) plCreators() string { return n.powerLevels(4) }

func (n numbering) plStep(step int, sub ...int) string {
	if n.rules.IntegerPowerLevels {
		if step > plUsers && n.rules.PrivilegedCreators {
			step++
		}
		step += 2
	}
	return n.powerLevels(append([]int{step}, sub...)...)
}

package roomversion_test

import (
	"slices"
	"testing"

	"hanse/pkg/matrix/roomversion"
)

// The pages of the room versions say which version brought a feature, or took it away.
func TestFeatures(t *testing.T) {
	type span struct{ first, last int }
	has := func(r *roomversion.Rules) map[string]bool {
		return map[string]bool{
			"EventFormat 1": r.EventFormat == 1, "EventFormat 3": r.EventFormat == 3,
			"EventID 1": r.EventID == 1, "EventID 2": r.EventID == 2, "EventID 3": r.EventID == 3,
			"StateRes 1": r.StateRes == 1, "StateRes 2": r.StateRes == 2, "StateRes 2.1": r.StateRes == 21,
			"Redaction 1": r.Redaction == 1, "Redaction 6": r.Redaction == 6, "Redaction 8": r.Redaction == 8, "Redaction 9": r.Redaction == 9, "Redaction 11": r.Redaction == 11,
			"EnforceKeyValidity": r.EnforceKeyValidity, "StrictCanonicalJSON": r.StrictCanonicalJSON, "SpecialAliasesAuth": r.SpecialAliasesAuth,
			"RedactionAuthRule": r.RedactionAuthRule, "NotificationLevelsAuth": r.NotificationLevelsAuth, "Knocking": r.Knocking,
			"RestrictedJoin": r.RestrictedJoin, "KnockRestricted": r.KnockRestricted, "IntegerPowerLevels": r.IntegerPowerLevels,
			"ImplicitCreator": r.ImplicitCreator, "RedactsInContent": r.RedactsInContent, "PrivilegedCreators": r.PrivilegedCreators,
			"RoomIDIsCreateHash": r.RoomIDIsCreateHash, "Stable": r.Stable,
		}
	}
	since := map[string]span{
		"EventFormat 1": {1, 2}, "EventFormat 3": {3, 12},
		"EventID 1": {1, 2}, "EventID 2": {3, 3}, "EventID 3": {4, 12},
		"StateRes 1": {1, 1}, "StateRes 2": {2, 11}, "StateRes 2.1": {12, 12},
		"Redaction 1": {1, 5}, "Redaction 6": {6, 7}, "Redaction 8": {8, 8}, "Redaction 9": {9, 10}, "Redaction 11": {11, 12},
		"EnforceKeyValidity": {5, 12}, "StrictCanonicalJSON": {6, 12}, "SpecialAliasesAuth": {1, 5},
		"RedactionAuthRule": {1, 2}, "NotificationLevelsAuth": {6, 12}, "Knocking": {7, 12},
		"RestrictedJoin": {8, 12}, "KnockRestricted": {10, 12}, "IntegerPowerLevels": {10, 12},
		"ImplicitCreator": {11, 12}, "RedactsInContent": {11, 12}, "PrivilegedCreators": {12, 12},
		"RoomIDIsCreateHash": {12, 12}, "Stable": {1, 12},
	}
	for i, v := range roomversion.Supported()[:12] {
		r, ok := roomversion.Get(v)
		if !ok || r.Version != v {
			t.Fatalf("version %s: %+v", v, r)
		}
		for feature, got := range has(r) {
			s, ok := since[feature]
			if want := s.first <= i+1 && i+1 <= s.last; !ok || got != want {
				t.Errorf("version %s: %s is %v", v, feature, got)
			}
		}
	}
}

func TestSupported(t *testing.T) {
	want := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "org.matrix.msc3757.10", "org.matrix.msc3757.11"}
	if got := roomversion.Supported(); !slices.Equal(got, want) {
		t.Errorf("Supported() = %v", got)
	}
	if _, ok := roomversion.Get(roomversion.Default); !ok {
		t.Error("the default version is not supported")
	}
	for _, v := range []string{"", "0", "13", "01", "org.matrix.msc3757.12"} {
		if _, ok := roomversion.Get(v); ok {
			t.Errorf("version %q is supported", v)
		}
	}
}

// MSC3757, "Unstable prefix": the behaviour comes on top of versions 10 and 11.
func TestOwnedState(t *testing.T) {
	for _, base := range []string{"10", "11"} {
		b, _ := roomversion.Get(base)
		owned, _ := roomversion.Get("org.matrix.msc3757." + base)
		want := *b
		want.Version, want.Stable, want.OwnedState = owned.Version, false, true
		if *owned != want || b.OwnedState || b.MaxStateKey() != 255 || owned.MaxStateKey() != 511 {
			t.Errorf("%+v", owned)
		}
	}
}

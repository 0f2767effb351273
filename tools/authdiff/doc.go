// Package authdiff compares the authorisation rules of pkg/matrix/auth with an
// independent implementation, that of mautrix, on random rooms. It has tests
// only, and they need GOEXPERIMENT=jsonv2, which mautrix asks for:
//
//	GOEXPERIMENT=jsonv2 go test ./authdiff/
//
// The two are known to differ in what the tests leave out:
//
//   - Room versions 1 and 2, which mautrix does not judge.
//   - Third-party invites: mautrix looks for the public keys in the invite
//     itself, not in the m.room.third_party_invite event.
//   - The numbers of steps: mautrix always numbers as version 12 does, and has
//     one number for all changes of power levels.
//   - Removing a user who has the sender's level from the power levels, which
//     makes mautrix panic.
//   - Malformed power levels to version 9: mautrix reads booleans as numbers,
//     and skips what it cannot read.
package authdiff

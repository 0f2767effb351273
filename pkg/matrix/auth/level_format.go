package auth

import (
	"math"
	"strconv"
	"strings"

	"hanse/pkg/matrix/roomversion"
)

// maxJSONInteger is the largest integer of canonical JSON.
const maxJSONInteger = 1<<53 - 1

// parseLevel reads a power level in the formats of the room version: integers
// only since version 10, strings before, floats where the room version does
// not demand canonical JSON ("m.room.power_levels events accept values as
// strings", "... as floats").
func parseLevel(raw []byte, rules *roomversion.Rules) int64 {
	if len(raw) == 0 {
		return levelAbsent
	}
	switch c := raw[0]; {
	case c == 'n':
		return levelNull
	case c == '"':
		if rules.IntegerPowerLevels {
			return levelBad
		}
		s, ok := text(raw)
		if !ok {
			return levelBad
		}
		return parseStringLevel(s)
	case c == '-' || '0' <= c && c <= '9':
		return parseNumberLevel(string(raw), rules)
	}
	return levelBad
}

func parseNumberLevel(s string, rules *roomversion.Rules) int64 {
	if !strings.ContainsAny(s, ".eE") {
		l := parseDigits(s)
		if rules.StrictCanonicalJSON && (l > maxJSONInteger || l < -maxJSONInteger) {
			return levelBad
		}
		return l
	}
	if rules.StrictCanonicalJSON {
		return levelBad
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil { // outside the range of a double
		return levelBad
	}
	switch f = math.Trunc(f); {
	case f >= maxLevel:
		return maxLevel
	case f <= -maxLevel:
		return -maxLevel
	}
	return int64(f)
}

// parseStringLevel: a base 10 integer, optionally signed, with any number of
// leading zeroes and whitespace around it.
func parseStringLevel(s string) int64 {
	return parseDigits(strings.TrimSpace(s))
}

// parseDigits reads [+-]?[0-9]+, saturating.
func parseDigits(s string) int64 {
	digits := strings.TrimPrefix(s, "-")
	negative := len(digits) != len(s)
	if !negative {
		digits = strings.TrimPrefix(s, "+")
	}
	if digits == "" {
		return levelBad
	}
	var l int64
	for i := 0; i < len(digits); i++ {
		d := digits[i]
		if d < '0' || d > '9' {
			return levelBad
		}
		if l > (maxLevel-9)/10 {
			l = maxLevel
			continue
		}
		l = l*10 + int64(d-'0')
	}
	if negative {
		return -l
	}
	return l
}

// Package words cuts text into the words that it is found by.
//
// Two texts that look the same to a reader give the same words: text is normalised (NFKC, which also makes wide and narrow forms
// the same), its case is folded, and it is cut where Unicode has the boundaries of words (UAX #29). Languages that do not put spaces
// between words, and Korean, whose words have endings, are cut into pairs of neighbouring characters. A search for two characters or
// more finds them wherever they stand. Words are not reduced to stems: no language is assumed.
//
// Nothing here keeps anything, and the work is linear in the length of the text.
package words

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

const (
	// MaxWords bounds the different words of a text; what comes behind them is not found.
	MaxWords = 1000
	// maxBytes is how much of a long word counts.
	maxBytes = 64
)

// Of returns the different words of a text, sorted.
func Of(text string) []string {
	seen := make(map[string]struct{})
	each(text, func(w string, _ []rune) bool {
		seen[w] = struct{}{}
		return len(seen) < MaxWords
	})
	found := make([]string, 0, len(seen))
	for w := range seen {
		found = append(found, w)
	}
	slices.Sort(found)
	return found
}

// Query returns the words of what somebody searches for, most of them at most, and what to highlight in that which is found.
func Query(text string, most int) (found, highlights []string) {
	each(text, func(w string, run []rune) bool {
		if !slices.Contains(found, w) {
			found = append(found, w)
		}
		shown := w
		if run != nil {
			shown = string(run)
		}
		if !slices.Contains(highlights, shown) {
			highlights = append(highlights, shown)
		}
		return len(found) < most
	})
	return found, highlights
}

// each calls yield for the words of a text until it returns false. Words that are pairs of characters come with the run of
// characters that they are from.
func each(text string, yield func(word string, run []rune) bool) {
	text = norm.NFKC.String(cases.Fold().String(norm.NFKC.String(strings.ToValidUTF8(text, " "))))
	var run []rune
	for state := -1; len(text) > 0; {
		var segment string
		segment, text, state = uniseg.FirstWordInString(text, state)
		for len(segment) > 0 {
			part, paired := leading(segment)
			segment = segment[len(part):]
			if paired {
				run = append(run, []rune(part)...)
				continue
			}
			if !pairs(run, yield) {
				return
			}
			if run = nil; isWord(part) && !yield(cut(part), nil) {
				return
			}
		}
	}
	pairs(run, yield)
}

// leading returns how a segment begins: the characters that are, or are not, to be taken in pairs.
func leading(segment string) (part string, paired bool) {
	for i, r := range segment {
		p := inPairs(r) || paired && unicode.IsMark(r)
		if i == 0 {
			paired = p
		}
		if p != paired {
			return segment[:i], paired
		}
	}
	return segment, paired
}

// pairs calls yield for the pairs of neighbours in a run, or for the only character.
func pairs(run []rune, yield func(string, []rune) bool) bool {
	if len(run) == 1 {
		return yield(string(run), run)
	}
	for i := 1; i < len(run); i++ {
		if !yield(string(run[i-1:i+1]), run) {
			return false
		}
	}
	return true
}

// inPairs says whether a character is of a script that is cut into pairs.
func inPairs(r rune) bool {
	return r >= 0x0e00 && (unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Thai, unicode.Lao,
		unicode.Myanmar, unicode.Khmer) || r == 'ー')
}

// isWord says whether a segment is more than space and punctuation.
func isWord(segment string) bool {
	for _, r := range segment {
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			return true
		}
	}
	return false
}

// cut shortens a word.
func cut(word string) string {
	if len(word) <= maxBytes {
		return word
	}
	n := maxBytes
	for !utf8.RuneStart(word[n]) {
		n--
	}
	return word[:n]
}

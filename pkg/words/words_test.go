package words

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOf(t *testing.T) {
	for text, want := range map[string][]string{
		"Hello, World!":               {"hello", "world"},
		"hello HELLO Hello":           {"hello"},
		"Straße STRASSE":              {"strasse"},
		"can't 3.14 v1.10":            {"3.14", "can't", "v1.10"},
		"ＡＢＣ　ｶﾀｶﾅ":                    {"abc", "カタ", "カナ", "タカ"},
		"中文搜索":                        {"中文", "搜索", "文搜"},
		"中":                           {"中"},
		"東京タワーに行く":                    {"に行", "タワ", "ワー", "ーに", "京タ", "東京", "行く"},
		"한국어를 배워요":                    {"국어", "배워", "어를", "워요", "한국"},
		"abc한글def":                    {"abc", "def", "한글"},
		"ไทย":                         {"ทย", "ไท"},
		"e\u0301te\u0301":             {"été"},
		"Привет, МИР":                 {"мир", "привет"},
		"!!! && || -- \"\" ()":        {},
		"":                            {},
		"a\x00b \xff\xfe c":           {"a", "b", "c"},
		"👍 ok":                        {"ok"},
		"https://example.org/a?b=c#d": {"a", "b", "c", "d", "example.org", "https"},
	} {
		if got := Of(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// What a text contains is found by what it looks like, wherever it stands in a compound.
func TestQuery(t *testing.T) {
	for _, c := range []struct{ text, query string }{
		{"我们明天去北京开会", "北京"}, {"我们明天去北京开会", "去北京"}, {"東京都庁舎", "京都"}, {"カタカナ", "ｶﾀ"}, {"한국어를 배워요", "한국"},
		{"Die STRASSE", "straße"}, {"ＨＥＬＬＯ", "hello"}, {"İstanbul", "İSTANBUL"}, {"Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"},
	} {
		found, highlights := Query(c.query, 32)
		of := Of(c.text)
		for _, w := range found {
			if !slices.Contains(of, w) {
				t.Errorf("%q in %q: %q is not in %q", c.query, c.text, w, of)
			}
		}
		if len(found) == 0 || len(highlights) != 1 {
			t.Errorf("%q: %q, %q", c.query, found, highlights)
		}
	}
	if found, _ := Query(strings.Repeat("a b c d ", 1000), 3); len(found) != 3 {
		t.Errorf("%q", found)
	}
}

func TestBounds(t *testing.T) {
	var many strings.Builder
	for r := rune(0x4e00); r < 0x9000; r++ {
		many.WriteRune(r)
	}
	if n := len(Of(many.String())); n != MaxWords {
		t.Errorf("%d words", n)
	}
	long := Of(strings.Repeat("ä", 10_000))
	if len(long) != 1 || len(long[0]) > maxBytes || !utf8.ValidString(long[0]) {
		t.Errorf("%q", long)
	}
}

func FuzzOf(f *testing.F) {
	for _, s := range []string{"Hello, World", "中文 abc한글", "ﷺ ﬃ \u0345\u0300", "a\x00\xff", "ไทยຂ", "ー゛が", strings.Repeat("é", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found := Of(text)
		if !slices.IsSorted(found) || len(found) > MaxWords {
			t.Fatalf("%d words of %q", len(found), text)
		}
		for _, w := range found {
			if w == "" || len(w) > maxBytes || !utf8.ValidString(w) || strings.ContainsRune(w, 0) {
				t.Fatalf("%q of %q", w, text)
			}
		}
		query, _ := Query(text, MaxWords)
		for _, w := range query { // who searches for a text finds it
			if !slices.Contains(found, w) {
				t.Fatalf("%q is searched for, and %q are there", w, found)
			}
		}
	})
}

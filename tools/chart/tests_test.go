package chart

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testInText = regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")
	testInCode = regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z0-9]*)\(`)
)

func TestTestsThatDocsNameExist(t *testing.T) {
	tests := map[string]bool{}
	for _, dir := range []string{"pkg", "services", "tools"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range testInCode.FindAllSubmatch(text, -1) {
				tests[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range docs {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testInText.FindAllSubmatch(text, -1) {
			if named++; !tests[string(m[1])] {
				t.Errorf("%s: there is no %s", filepath.Base(file), m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("docs name only %d tests", named)
	}
}

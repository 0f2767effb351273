package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decoder writes a YAML tree into a struct.
type decoder struct {
	origin string                   // file name
	set    func(key, source string) // a leaf has got its value
	errs   []error
}

// parse reads one YAML document; nil for an empty one.
func parse(origin string, text []byte) (ast.Node, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return nil, fmt.Errorf("%s:%d: a second document", origin, line(doc.Body))
		}
		body = doc.Body
	}
	return body, nil
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

func (d *decoder) fail(n ast.Node, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s:%d: %w", d.origin, line(n), fmt.Errorf(format, args...)))
}

// pairs returns the entries of a mapping.
func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	case *ast.NullNode:
		return nil, true
	}
	return nil, false
}

// section decodes a mapping into a struct.
func (d *decoder) section(prefix string, n ast.Node, v reflect.Value) {
	entries, ok := pairs(n)
	if !ok {
		d.fail(n, "%s: want a mapping", prefix)
		return
	}
	fields := make(map[string]reflect.Value)
	collect(v, fields)
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		name := e.Key.GetToken().Value
		key := join(prefix, name)
		if seen[name] {
			d.fail(e.Key, "%s: stands here twice", key)
			continue
		}
		seen[name] = true
		fv, ok := fields[name]
		if !ok {
			d.fail(e.Key, "%s: no such key", key)
			continue
		}
		if isSection(fv.Type()) {
			d.section(key, e.Value, fv)
			continue
		}
		if d.value(key, e.Value, fv) && d.set != nil {
			d.set(key, d.origin+":"+strconv.Itoa(line(e.Key)))
		}
	}
}

// collect maps the keys of a struct to its fields.
func collect(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, inline, ok := keyOf(v.Type().Field(i))
		switch {
		case !ok:
		case inline:
			collect(v.Field(i), into)
		default:
			into[name] = v.Field(i)
		}
	}
}

// value decodes a node into a leaf or an element of one.
func (d *decoder) value(key string, n ast.Node, v reflect.Value) bool {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		d.fail(n, "%s: anchors, aliases and tags are not supported", key)
		return false
	case *ast.NullNode:
		v.SetZero()
		return true
	}
	t := v.Type()
	switch {
	case reflect.PointerTo(t).Implements(textType):
	case t.Kind() == reflect.Pointer:
		p := reflect.New(t.Elem())
		if !d.value(key, n, p.Elem()) {
			return false
		}
		v.Set(p)
		return true
	case t.Kind() == reflect.Slice:
		return d.list(key, n, v)
	case t.Kind() == reflect.Map:
		return d.mapping(key, n, v)
	case t.Kind() == reflect.Struct:
		before := len(d.errs)
		inner := *d
		inner.set = nil
		inner.section(key, n, v)
		d.errs = inner.errs
		return len(d.errs) == before
	}
	text, ok := scalar(n)
	if !ok {
		d.fail(n, "%s: want %s", key, typeName(t))
		return false
	}
	if err := setText(v, text); err != nil {
		d.fail(n, "%s: %w", key, err)
		return false
	}
	return true
}

func (d *decoder) list(key string, n ast.Node, v reflect.Value) bool {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(n, "%s: want a list", key)
		return false
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		if !d.value(fmt.Sprintf("%s[%d]", key, i), item, out.Index(i)) {
			return false
		}
	}
	v.Set(out)
	return true
}

// mapping adds to what the map holds, and changes single values of entries that are structs: a file that sets one
// rate limit leaves the others as they are.
func (d *decoder) mapping(key string, n ast.Node, v reflect.Value) bool {
	entries, ok := pairs(n)
	if !ok {
		d.fail(n, "%s: want a mapping", key)
		return false
	}
	out := reflect.MakeMapWithSize(v.Type(), v.Len()+len(entries))
	for it := v.MapRange(); it.Next(); {
		out.SetMapIndex(it.Key(), it.Value())
	}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		name := e.Key.GetToken().Value
		mk := reflect.New(v.Type().Key()).Elem()
		if err := setText(mk, name); err != nil {
			d.fail(e.Key, "%s: %w", join(key, name), err)
			return false
		}
		if seen[name] {
			d.fail(e.Key, "%s: stands here twice", join(key, name))
			return false
		}
		seen[name] = true
		mv := reflect.New(v.Type().Elem()).Elem()
		if old := out.MapIndex(mk); old.IsValid() {
			mv.Set(old)
		}
		if !d.value(join(key, name), e.Value, mv) {
			return false
		}
		out.SetMapIndex(mk, mv)
	}
	v.Set(out)
	return true
}

// scalar returns the text of a scalar as it was written.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// setText parses text as the type of v.
func setText(v reflect.Value, text string) error {
	t := v.Type()
	if tu, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return tu.UnmarshalText([]byte(text))
	}
	if t == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("want %s, not %q", typeName(t), text)
		}
		v.SetInt(int64(d))
		return nil
	}
	ok := false
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
		return nil
	case reflect.Bool:
		ok = text == "true" || text == "false"
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(text, 0, t.Bits())
		ok = err == nil
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, err := strconv.ParseUint(text, 0, t.Bits())
		ok = err == nil
		v.SetUint(i)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, t.Bits())
		ok = err == nil
		v.SetFloat(f)
	default:
		return errors.New("a value of this type cannot be written as text")
	}
	if !ok {
		return fmt.Errorf("want %s, not %q", typeName(t), text)
	}
	return nil
}

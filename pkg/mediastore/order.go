package mediastore

import (
	"cmp"
	"strings"
)

// Order says which media of a user come first: by created_ts, the newest first, if it is the zero value.
type Order struct {
	// By is a field, by the name that the admin API has for it: see ValidOrder.
	By        string
	Ascending bool
}

type order struct {
	column  string
	compare func(a, b *Media) int
}

var orders = map[string]order{
	"media_id":       {"media_id", func(a, b *Media) int { return strings.Compare(a.Media, b.Media) }},
	"upload_name":    {`name COLLATE "C"`, func(a, b *Media) int { return strings.Compare(a.Name, b.Name) }},
	"created_ts":     {"created_ts", func(a, b *Media) int { return a.Created.Compare(b.Created) }},
	"last_access_ts": {"accessed_ts", func(a, b *Media) int { return a.Accessed.Compare(b.Accessed) }},
	"media_length":   {"bytes", func(a, b *Media) int { return cmp.Compare(a.Bytes, b.Bytes) }},
	"media_type":     {`type COLLATE "C"`, func(a, b *Media) int { return strings.Compare(a.Type, b.Type) }},
	"quarantined_by": {"coalesce(quarantined_by, '')", func(a, b *Media) int { return strings.Compare(a.QuarantinedBy, b.QuarantinedBy) }},
	"safe_from_quarantine": {"protected", func(a, b *Media) int {
		switch {
		case a.Protected == b.Protected:
			return 0
		case a.Protected:
			return 1
		}
		return -1
	}},
}

// ValidOrder reports whether media can be sorted by a field.
func ValidOrder(by string) bool { _, ok := orders[by]; return ok }

// sql is the ORDER BY of a query of media.
func (o Order) sql() string {
	if o.Ascending {
		return o.known().column + ", media_id"
	}
	return o.known().column + " DESC, media_id"
}

func (o Order) known() order {
	if known, ok := orders[o.By]; ok {
		return known
	}
	return orders["created_ts"]
}

// compare compares as sql does.
func (o Order) compare(a, b *Media) int {
	c := o.known().compare(a, b)
	if !o.Ascending {
		c = -c
	}
	return cmp.Or(c, strings.Compare(a.Media, b.Media))
}

package thumbnail

import (
	"bytes"
	"encoding/binary"
	"image"
)

// orientation returns how a JPEG has to be turned, from its EXIF data: 1 to 8 as EXIF has it, 1 for not at all.
func orientation(file []byte) int {
	for at := 2; at+4 <= len(file) && file[at] == 0xff; {
		marker, size := file[at+1], int(binary.BigEndian.Uint16(file[at+2:]))
		if marker == 0xda || size < 2 || at+2+size > len(file) {
			return 1
		}
		if segment := file[at+4 : at+2+size]; marker == 0xe1 && bytes.HasPrefix(segment, []byte("Exif\x00\x00")) {
			return tiffOrientation(segment[6:])
		}
		at += 2 + size
	}
	return 1
}

// tiffOrientation finds tag 0x0112 in the first directory.
func tiffOrientation(b []byte) int {
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 'M' {
		order = binary.BigEndian
	}
	at := uint64(order.Uint32(b[4:]))
	if at+2 > uint64(len(b)) {
		return 1
	}
	n := int(order.Uint16(b[at:]))
	for i := range n {
		entry := at + 2 + uint64(i)*12
		if entry+12 > uint64(len(b)) {
			return 1
		}
		if order.Uint16(b[entry:]) != 0x0112 {
			continue
		}
		if v := int(order.Uint16(b[entry+8:])); v >= 1 && v <= 8 {
			return v
		}
		return 1
	}
	return 1
}

// back maps a point of a picture that was turned, of that size, to where it was.
func back(x, y, w, h, turn int) (int, int) {
	switch turn {
	case 2:
		return w - 1 - x, y
	case 3:
		return w - 1 - x, h - 1 - y
	case 4:
		return x, h - 1 - y
	case 5:
		return y, x
	case 6:
		return y, w - 1 - x
	case 7:
		return h - 1 - y, w - 1 - x
	case 8:
		return h - 1 - y, x
	}
	return x, y
}

// untwist returns where a part of the turned picture, whose size is given, lies in the picture as it is stored.
func untwist(part image.Rectangle, w, h, turn int) image.Rectangle {
	x0, y0 := back(part.Min.X, part.Min.Y, w, h, turn)
	x1, y1 := back(part.Max.X-1, part.Max.Y-1, w, h, turn)
	r := image.Rect(x0, y0, x1, y1) // in order
	r.Max = r.Max.Add(image.Pt(1, 1))
	return r
}

// turned returns a small picture as it has to be seen.
func turned(img *image.RGBA, turn int) *image.RGBA {
	if turn == 1 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	if turn > 4 {
		w, h = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			sx, sy := back(x, y, w, h, turn)
			out.SetRGBA(x, y, img.RGBAAt(sx, sy))
		}
	}
	return out
}

// Package thumbnail makes small pictures of large ones.
//
// # Model
//
// Inspect reads from the first bytes of a file what it is and how large its picture is, without decoding it. Make decodes
// it, scales it and encodes the result. JPEG, PNG, GIF and WebP are understood, by decoders written in Go. AVIF and HEIC are
// not: there is no such decoder that is maintained. Animated GIFs stay animated if asked; of others the first frame is used.
//
// # Invariants
//
// Nothing is allocated for a picture before its size was checked. Make decodes no more pixels, frames and scans than Limits
// say, whatever the file claims.
//
// # Failures
//
// ErrFormat for what is no picture, or a broken one; ErrTooLarge for what is beyond the limits.
package thumbnail

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/webp"
)

// Errors of this package.
var (
	ErrFormat   = errors.New("no picture that can be decoded")
	ErrTooLarge = errors.New("the picture is too large")
)

// Limits bound what is decoded.
type Limits struct {
	// Pixels of one picture, of all frames of an animation together.
	Pixels int64
	// Side is the largest width or height.
	Side int
}

// Spec is what is asked for.
type Spec struct {
	Width, Height int
	// Crop fills the size, and cuts off what is beyond it; otherwise the whole picture fits into it.
	Crop bool
	// Animated keeps an animation.
	Animated bool
}

// String names the spec, as thumbnails are kept by it.
func (s Spec) String() string {
	method, moves := "scale", ""
	if s.Crop {
		method = "crop"
	}
	if s.Animated {
		moves = "-animated"
	}
	return fmt.Sprintf("%dx%d-%s%s", s.Width, s.Height, method, moves)
}

// sides are the widths and heights of thumbnails that are cropped; scaled are the sizes of those that are not.
var (
	sides  = []int{32, 96, 160, 240, 320, 480, 640, 800, 1200, 1600}
	scaled = [][2]int{{32, 32}, {96, 96}, {320, 240}, {640, 480}, {800, 600}, {1600, 1200}}
)

// Snap returns the smallest of a few sizes that is not smaller than what is asked for, so that there are not as many
// thumbnails of a picture as there are sizes; false if it is larger than all of them.
func (s Spec) Snap() (Spec, bool) {
	if !s.Crop {
		for _, size := range scaled {
			if s.Width <= size[0] && s.Height <= size[1] {
				s.Width, s.Height = size[0], size[1]
				return s, true
			}
		}
		return s, false
	}
	for _, side := range []*int{&s.Width, &s.Height} {
		found := false
		for _, n := range sides {
			if *side <= n {
				*side, found = n, true
				break
			}
		}
		if !found {
			return s, false
		}
	}
	return s, true
}

// Info is what a file says of itself.
type Info struct {
	// Type is image/jpeg, image/png, image/gif or image/webp.
	Type          string
	Width, Height int
	// Bytes is what its decoded picture takes in memory, about.
	Bytes int64
}

// HeaderBytes is how many bytes Inspect needs at most.
const HeaderBytes = 1 << 20

// Inspect reads what a file is from its beginning. It allocates nothing of the size of the picture.
func Inspect(head []byte, l Limits) (Info, error) {
	typ := sniff(head)
	if typ == "" {
		return Info{}, ErrFormat
	}
	var c image.Config
	var err error
	r := bytes.NewReader(head)
	switch typ {
	case "image/jpeg":
		c, err = jpeg.DecodeConfig(r)
	case "image/png":
		c, err = png.DecodeConfig(r)
	case "image/gif":
		c, err = gif.DecodeConfig(r)
	case "image/webp":
		c, err = webp.DecodeConfig(r)
	}
	if err != nil || c.Width <= 0 || c.Height <= 0 {
		return Info{}, errors.Join(ErrFormat, err)
	}
	if c.Width > l.Side || c.Height > l.Side || int64(c.Width)*int64(c.Height) > l.Pixels {
		return Info{}, fmt.Errorf("%w: %d x %d", ErrTooLarge, c.Width, c.Height)
	}
	return Info{Type: typ, Width: c.Width, Height: c.Height, Bytes: int64(c.Width) * int64(c.Height) * depth(c.ColorModel)}, nil
}

// depth is how many bytes a pixel takes, with what scaling needs.
func depth(m color.Model) int64 {
	switch m {
	case color.RGBA64Model, color.NRGBA64Model:
		return 12
	case color.GrayModel, color.YCbCrModel:
		return 4
	}
	return 8
}

// sniff tells a format by its first bytes.
func sniff(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte("\xff\xd8\xff")):
		return "image/jpeg"
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		return "image/png"
	case bytes.HasPrefix(b, []byte("GIF87a")), bytes.HasPrefix(b, []byte("GIF89a")):
		return "image/gif"
	case len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP":
		return "image/webp"
	}
	return ""
}

// Result is a thumbnail.
type Result struct {
	Type    string
	Content []byte
}

// maxScans bounds the passes over a progressive JPEG: each may cost as much as its picture and have only a few bytes.
const maxScans = 64

// Make makes a thumbnail of a file. It returns nil if the picture is not larger than what is asked for: then the file itself
// is its thumbnail.
func Make(file []byte, s Spec, l Limits) (*Result, error) {
	info, err := Inspect(file[:min(len(file), HeaderBytes)], l)
	if err != nil {
		return nil, err
	}
	turn := 1
	if info.Type == "image/jpeg" {
		if bytes.Count(file, []byte{0xff, 0xda}) > maxScans {
			return nil, fmt.Errorf("%w: too many scans", ErrTooLarge)
		}
		turn = orientation(file)
	}
	w, h := info.Width, info.Height
	if turn > 4 {
		w, h = h, w
	}
	if w <= s.Width && h <= s.Height {
		return nil, nil
	}
	if info.Type == "image/gif" && s.Animated {
		r, err := animate(file, s, l)
		if r != nil || err != nil {
			return r, err
		}
	}
	dw, dh, part := s.plan(w, h)
	img, divisor, err := decode(info.Type, file, min(part.Dx()/dw, part.Dy()/dh))
	if err != nil {
		return nil, err
	}
	part = untwist(part, w, h, turn)
	part.Min, part.Max = part.Min.Div(divisor), part.Max.Div(divisor)
	return encode(turned(resize(img, part, turn, dw, dh), turn), info.Type)
}

// decode decodes a picture. A JPEG may come out smaller, by a divisor that is at most smaller.
func decode(typ string, file []byte, smaller int) (img image.Image, divisor int, err error) {
	r := bytes.NewReader(file)
	divisor = 1
	switch typ {
	case "image/jpeg":
		img, divisor, err = decodeJPEG(file, smaller)
	case "image/png":
		img, err = png.Decode(r)
	case "image/gif":
		img, err = gif.Decode(r)
	case "image/webp":
		img, err = webp.Decode(r)
	}
	if err != nil {
		return nil, 0, errors.Join(ErrFormat, err)
	}
	if img.Bounds().Empty() {
		return nil, 0, ErrFormat
	}
	return img, divisor, nil
}

func encode(img *image.RGBA, from string) (*Result, error) {
	var b bytes.Buffer
	if from == "image/jpeg" || img.Opaque() && from == "image/webp" {
		err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 80})
		return &Result{"image/jpeg", b.Bytes()}, err
	}
	err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img)
	return &Result{"image/png", b.Bytes()}, err
}

// plan returns the size of the thumbnail of a picture, and which part of the picture it shows.
func (s Spec) plan(w, h int) (dw, dh int, part image.Rectangle) {
	if !s.Crop {
		// The whole picture, as large as fits; never larger than it is.
		if w*s.Height > s.Width*h {
			dw, dh = s.Width, max(1, h*s.Width/w)
		} else {
			dw, dh = max(1, w*s.Height/h), s.Height
		}
		if dw > w || dh > h {
			dw, dh = w, h
		}
		return dw, dh, image.Rect(0, 0, w, h)
	}
	// The part in the middle that has the aspect that is asked for.
	cw, ch := w, max(1, w*s.Height/s.Width)
	if ch > h {
		cw, ch = max(1, h*s.Width/s.Height), h
	}
	x, y := (w-cw)/2, (h-ch)/2
	return min(s.Width, cw), min(s.Height, ch), image.Rect(x, y, x+cw, y+ch)
}

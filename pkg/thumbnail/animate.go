package thumbnail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
)

// maxFrames bounds an animation.
const maxFrames = 500

// animate makes an animated thumbnail; nil if the file has one frame only, or more than the limits allow: then it does not
// move.
func animate(file []byte, s Spec, l Limits) (*Result, error) {
	frames, pixels := gifFrames(file)
	if frames < 2 || frames > maxFrames || pixels > l.Pixels {
		return nil, nil
	}
	all, err := gif.DecodeAll(bytes.NewReader(file))
	if err != nil {
		return nil, errors.Join(ErrFormat, err)
	}
	w, h := all.Config.Width, all.Config.Height
	if w <= 0 || h <= 0 || int64(w)*int64(h)*int64(len(all.Image)) > l.Pixels {
		return nil, nil // each frame is drawn whole
	}
	dw, dh, part := s.plan(w, h)
	out := &gif.GIF{LoopCount: all.LoopCount, Delay: all.Delay}
	canvas := image.NewRGBA(image.Rect(0, 0, w, h))
	colours := append(color.Palette{color.Transparent}, palette.WebSafe...)
	var before *image.RGBA
	for i, frame := range all.Image {
		if all.Disposal[i] == gif.DisposalPrevious {
			before = &image.RGBA{Pix: bytes.Clone(canvas.Pix), Stride: canvas.Stride, Rect: canvas.Rect}
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		small := resize(canvas, part, 1, dw, dh)
		p := image.NewPaletted(small.Rect, colours)
		draw.FloydSteinberg.Draw(p, p.Rect, small, image.Point{})
		out.Image = append(out.Image, p)
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		switch all.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			canvas = before
		}
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, out); err != nil {
		return nil, err
	}
	return &Result{"image/gif", b.Bytes()}, nil
}

// gifFrames counts the frames of a GIF and their pixels, without decoding any.
func gifFrames(b []byte) (frames int, pixels int64) {
	if len(b) < 13 {
		return 0, 0
	}
	at := 13 + colourTable(b[10])
	for at < len(b) {
		switch b[at] {
		case 0x21: // an extension: a label, and blocks
			at = skipBlocks(b, at+2)
		case 0x2c: // a frame: place, size, colours, code size, blocks
			if at+10 > len(b) {
				return frames, pixels
			}
			frames++
			pixels += int64(binary.LittleEndian.Uint16(b[at+5:])) * int64(binary.LittleEndian.Uint16(b[at+7:]))
			at = skipBlocks(b, at+11+colourTable(b[at+9]))
		default:
			return frames, pixels
		}
	}
	return frames, pixels
}

func colourTable(flags byte) int {
	if flags&0x80 == 0 {
		return 0
	}
	return 3 << (flags&7 + 1)
}

func skipBlocks(b []byte, at int) int {
	for at < len(b) && b[at] != 0 {
		at += 1 + int(b[at])
	}
	return at + 1
}

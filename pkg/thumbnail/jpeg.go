package thumbnail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"

	"github.com/gen2brain/jpegn"
)

// decodeJPEG decodes a JPEG, at a half, a quarter or an eighth of its size if that is at least a smaller-th of it: each block of
// 8 x 8 pixels then becomes one of 4 x 4, 2 x 2 or 1, which saves most of the work. It returns the divisor that it used.
func decodeJPEG(file []byte, smaller int) (img image.Image, divisor int, err error) {
	for divisor = 8; divisor > 1 && divisor > smaller; {
		divisor /= 2
	}
	if divisor > 1 && scalable(file) {
		img, err = decodeScaled(file, divisor)
		return img, divisor, err
	}
	img, err = jpeg.Decode(bytes.NewReader(file))
	return img, 1, err
}

// decodeScaled decodes a JPEG that is scalable. The decoder is younger than that of the standard library: if it panics, the
// picture is broken.
func decodeScaled(file []byte, divisor int) (img image.Image, err error) {
	defer func() {
		if v := recover(); v != nil {
			img, err = nil, fmt.Errorf("the decoder panics: %v", v)
		}
	}()
	// Two decoders must not see different sizes: that of the other one was checked.
	checked, err := jpeg.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	config, err := jpegn.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	if config.Width != checked.Width || config.Height != checked.Height {
		return nil, errors.New("decoders disagree on its size")
	}
	return jpegn.Decode(bytes.NewReader(file), &jpegn.Options{ScaleDenom: divisor})
}

// scalable says whether a file is a JPEG that the decoder that scales knows as well as the standard library does: baseline or
// progressive, grey or YCbCr, with all components in its first scan or progressive, and not cut off.
func scalable(file []byte) bool {
	components, progressive := 0, false
	for at := 2; at+4 <= len(file) && file[at] == 0xff; {
		marker, size := file[at+1], int(binary.BigEndian.Uint16(file[at+2:]))
		if size < 2 || at+2+size > len(file) {
			return false
		}
		segment := file[at+4 : at+2+size]
		switch marker {
		case 0xc0, 0xc2: // start of frame: baseline, progressive
			if components != 0 || len(segment) < 6 || segment[5] != 1 && segment[5] != 3 {
				return false
			}
			components, progressive = int(segment[5]), marker == 0xc2
			if components == 3 && (len(segment) < 15 || segment[6] == 'R' || segment[10] != 0x11 || segment[13] != 0x11) {
				return false // RGB, or colours that are sampled in an unusual way
			}
		case 0xee: // Adobe's: the transform of its colours, 1 for YCbCr
			if len(segment) >= 12 && string(segment[:5]) == "Adobe" && segment[11] != 1 {
				return false
			}
		case 0xda: // start of scan
			whole := len(segment) > 0 && int(segment[0]) == components
			return components > 0 && (whole || progressive) && bytes.Contains(file[at:], []byte{0xff, 0xd9})
		}
		at += 2 + size
	}
	return false
}

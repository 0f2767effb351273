package thumbnail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var limits = Limits{Pixels: 32 << 20, Side: 32_000}

// picture has a red left half, a blue right half, and a green top row of a quarter.
func picture(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{200, 20, 20, 255}
			if x >= w/2 {
				c = color.RGBA{20, 20, 200, 255}
			}
			if y < h/4 {
				c.G = 200
			}
			img.SetRGBA(x, y, c)
		}
	}
	return img
}

func jpegOf(t testing.TB, img image.Image, exif int) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, jpeg.Encode(&b, img, nil))
	if exif == 0 {
		return b.Bytes()
	}
	seg := []byte("Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00")
	seg[len(seg)-3] = byte(exif)
	head := append([]byte{0xff, 0xd8, 0xff, 0xe1}, binary.BigEndian.AppendUint16(nil, uint16(len(seg)+2))...)
	return append(append(head, seg...), b.Bytes()[2:]...)
}

func pngOf(t testing.TB, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, png.Encode(&b, img))
	return b.Bytes()
}

func gifOf(t testing.TB, n, w, h int) []byte {
	t.Helper()
	g := &gif.GIF{}
	for i := range n {
		p := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Black, color.White})
		for x := range w {
			p.SetColorIndex(x, i%h, 1)
		}
		g.Image = append(g.Image, p)
		g.Delay = append(g.Delay, 5)
	}
	var b bytes.Buffer
	must(t, gif.EncodeAll(&b, g))
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, r *Result) (int, int) {
	t.Helper()
	c, _, err := image.DecodeConfig(bytes.NewReader(r.Content))
	must(t, err)
	return c.Width, c.Height
}

// Client-server API, content repository, "Thumbnails": scale keeps the aspect, crop has that of the request, nothing grows.
func TestSizes(t *testing.T) {
	for _, q := range []struct {
		w, h         int
		spec         Spec
		wantW, wantH int
	}{
		{4000, 3000, Spec{Width: 800, Height: 600}, 800, 600},
		{4000, 1000, Spec{Width: 320, Height: 240}, 320, 80},
		{1000, 4000, Spec{Width: 320, Height: 240}, 60, 240},
		{1000, 1000, Spec{Width: 96, Height: 96, Crop: true}, 96, 96},
		{1000, 300, Spec{Width: 96, Height: 96, Crop: true}, 96, 96},
		{1000, 20, Spec{Width: 96, Height: 96, Crop: true}, 20, 20},
		{5000, 1, Spec{Width: 32, Height: 32}, 32, 1},
	} {
		r, err := Make(pngOf(t, picture(q.w, q.h)), q.spec, limits)
		must(t, err)
		if w, h := size(t, r); w != q.wantW || h != q.wantH || r.Type != "image/png" {
			t.Errorf("%d x %d to %v: %d x %d %s", q.w, q.h, q.spec, w, h, r.Type)
		}
	}
	if r, err := Make(pngOf(t, picture(100, 80)), Spec{Width: 100, Height: 100}, limits); r != nil || err != nil {
		t.Errorf("what is small enough: %v %v", r, err)
	}
}

// EXIF orientation: whichever way the pixels are stored, the thumbnail looks the same.
func TestOrientation(t *testing.T) {
	want := picture(400, 200)
	for turn := 1; turn <= 8; turn++ {
		w, h := 400, 200
		if turn > 4 {
			w, h = h, w
		}
		stored := image.NewRGBA(image.Rect(0, 0, w, h))
		for y := range 200 {
			for x := range 400 {
				sx, sy := back(x, y, 400, 200, turn)
				stored.SetRGBA(sx, sy, want.RGBAAt(x, y))
			}
		}
		for _, spec := range []Spec{{Width: 100, Height: 100}, {Width: 60, Height: 60, Crop: true}} {
			r, err := Make(jpegOf(t, stored, turn), spec, limits)
			must(t, err)
			img, err := jpeg.Decode(bytes.NewReader(r.Content))
			must(t, err)
			b := img.Bounds()
			for _, at := range []struct {
				x, y    int
				r, g, b bool
			}{{2, b.Dy() / 8, true, true, false}, {b.Dx() - 3, b.Dy() / 8, false, true, true}, {2, b.Dy() - 3, true, false, false}, {b.Dx() - 3, b.Dy() - 3, false, false, true}} {
				cr, cg, cb, _ := img.At(at.x, at.y).RGBA()
				if cr > 0x7fff != at.r || cg > 0x7fff != at.g || cb > 0x7fff != at.b {
					t.Errorf("turn %d %v: at %d,%d of %v is %x %x %x", turn, spec, at.x, at.y, b, cr, cg, cb)
				}
			}
		}
	}
}

func TestAnimation(t *testing.T) {
	file := gifOf(t, 12, 200, 100)
	r, err := Make(file, Spec{Width: 96, Height: 96, Animated: true}, limits)
	must(t, err)
	g, err := gif.DecodeAll(bytes.NewReader(r.Content))
	must(t, err)
	if len(g.Image) != 12 || g.Config.Width != 96 || g.Config.Height != 48 || g.Delay[3] != 5 {
		t.Errorf("%d frames of %d x %d", len(g.Image), g.Config.Width, g.Config.Height)
	}
	if r, err = Make(file, Spec{Width: 96, Height: 96}, limits); err != nil || r.Type != "image/png" {
		t.Errorf("not animated: %v %v", r, err)
	}
	if r, err = Make(file, Spec{Width: 96, Height: 96, Animated: true}, Limits{Pixels: 100_000, Side: 1000}); err != nil || r.Type != "image/png" {
		t.Errorf("beyond the limit it does not move: %v %v", r, err)
	}
}

// pngClaiming is a PNG that says that it is that large, and has no pixels.
func pngClaiming(w, h uint32) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d")
	ihdr := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("IHDR"), w), h)
	ihdr = append(ihdr, 8, 6, 0, 0, 0)
	return binary.BigEndian.AppendUint32(append(b, ihdr...), crc32.ChecksumIEEE(ihdr))
}

// Bombs, lies and what is no picture are refused soon, and nothing is allocated for them.
func TestRefused(t *testing.T) {
	progressive := jpegOf(t, picture(64, 64), 0)
	manyScans := append(bytes.Clone(progressive), bytes.Repeat([]byte{0xff, 0xda}, maxScans)...)
	good := pngOf(t, picture(300, 300))
	gifLie := gifOf(t, 1, 10, 10)
	copy(gifLie[6:], "\xff\xff\xff\xff")
	for name, q := range map[string]struct {
		file []byte
		want error
	}{
		"20,000 x 20,000":   {pngClaiming(20_000, 20_000), ErrTooLarge},
		"2^31 x 2^31":       {pngClaiming(1<<31-1, 1<<31-1), ErrFormat},
		"a line of 2^30":    {pngClaiming(1<<30, 1), ErrTooLarge},
		"no pixels":         {pngClaiming(0, 10), ErrFormat},
		"truncated":         {good[:len(good)/2], ErrFormat},
		"header only":       {pngClaiming(100, 100), ErrFormat},
		"gif that lies":     {gifLie, ErrTooLarge},
		"many scans":        {manyScans, ErrTooLarge},
		"SVG":               {[]byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`), ErrFormat},
		"HTML":              {[]byte("<!DOCTYPE html><html>"), ErrFormat},
		"empty":             {nil, ErrFormat},
		"polyglot":          {append([]byte("GIF89a/*"), []byte(strings.Repeat("=1;alert(1)//", 10))...), ErrTooLarge},
		"webp of nothing":   {[]byte("RIFF\x00\x00\x00\x00WEBPVP8 "), ErrFormat},
		"AVIF":              {[]byte("\x00\x00\x00\x20ftypavif"), ErrFormat},
		"ImageMagick's MVG": {[]byte("push graphic-context\nimage over 0,0 0,0 'https://example.org'"), ErrFormat},
		"jpeg of a segment": {[]byte("\xff\xd8\xff\xe1\xff\xff"), ErrFormat},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := cpu(t)
		_, err := Make(q.file, Spec{Width: 32, Height: 32}, limits)
		took := cpu(t) - began
		runtime.ReadMemStats(&after)
		if !errors.Is(err, q.want) {
			t.Errorf("%s: %v, want %v", name, err, q.want)
		}
		// What is refused by its header costs nothing; what breaks off behind a good one, no more than its picture.
		most := uint64(64 << 10)
		if name == "truncated" || name == "header only" {
			most = 2 << 20
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%s: %d bytes allocated, want %d at most", name, n, most)
		}
		t.Logf("%s: %v", name, took)
	}
}

// cpu is the processor time that this process has used.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The colour of a square is the mean of all its samples, however many pixels one stands for, and wherever the picture begins.
func TestColoursOfSquares(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420,
		image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410} {
		whole := image.NewYCbCr(image.Rect(0, 0, 67, 53), ratio)
		for y := range 53 {
			for x := range 67 {
				i := whole.COffset(x, y)
				whole.Y[whole.YOffset(x, y)], whole.Cb[i], whole.Cr[i] = uint8(3*x), uint8(7*i), uint8(200-5*i)
			}
		}
		for _, img := range []*image.YCbCr{whole, whole.SubImage(image.Rect(8, 4, 67, 53)).(*image.YCbCr)} {
			sx, sy := subsampled(ratio)
			for _, step := range []int{2, 3, 5, 8} {
				for y := img.Rect.Min.Y; y+step <= img.Rect.Max.Y; y++ {
					for x := img.Rect.Min.X; x+step <= img.Rect.Max.X; x++ {
						seen := make(map[int]bool)
						var b, r int
						for dy := range step {
							for dx := range step {
								if i := img.COffset(x+dx, y+dy); !seen[i] {
									seen[i] = true
									b, r = b+int(img.Cb[i]), r+int(img.Cr[i])
								}
							}
						}
						cb, cr := chroma(img, x, y, step, sx, sy)
						if int(cb) != b/len(seen) || int(cr) != r/len(seen) {
							t.Fatalf("%v at %d,%d by %d: %d %d, want %d %d", ratio, x, y, step, cb, cr, b/len(seen), r/len(seen))
						}
					}
				}
			}
		}
	}
}

// What is decoded at a part of its size looks as what is decoded whole and then scaled, in baseline and progressive files, in
// colour and in grey, whichever way its colours are sampled. Files that not both decoders know alike are decoded whole.
func TestScaledDecoding(t *testing.T) {
	files, err := filepath.Glob("testdata/*.jpg")
	must(t, err)
	if len(files) < 7 {
		t.Fatal("pictures are missing: ", files)
	}
	for _, name := range files {
		file, err := os.ReadFile(name)
		must(t, err)
		if want := !strings.Contains(name, "whole"); scalable(file) != want {
			t.Errorf("%s: scalable: %t", name, !want)
		}
		whole, err := jpeg.Decode(bytes.NewReader(file))
		must(t, err)
		for _, divisor := range []int{1, 2, 4, 8} {
			img, by, err := decodeJPEG(file, divisor)
			must(t, err)
			if strings.Contains(name, "whole") && by != 1 || !strings.Contains(name, "whole") && by != divisor {
				t.Errorf("%s: divided by %d, want %d", name, by, divisor)
			}
			w, h := 20, 15
			got := resize(img, img.Bounds(), 1, w, h)
			want := resize(whole, whole.Bounds(), 1, w, h)
			var sum int
			for i := range got.Pix {
				d := int(got.Pix[i]) - int(want.Pix[i])
				sum += max(d, -d)
			}
			if mean := float64(sum) / float64(len(got.Pix)); mean > 6 {
				t.Errorf("%s by %d: colours differ by %.1f of 255 on average", name, divisor, mean)
			}
		}
	}
}

// A scaled picture that was cut off is refused, as a whole one is.
func TestCutOff(t *testing.T) {
	file := jpegOf(t, photo(1600, 1200), 0)
	for _, spec := range []Spec{{Width: 32, Height: 32}, {Width: 1599, Height: 1199}} {
		if _, err := Make(file[:len(file)/2], spec, limits); !errors.Is(err, ErrFormat) {
			t.Errorf("%v: %v", spec, err)
		}
	}
}

func TestSnap(t *testing.T) {
	for _, q := range []struct {
		ask, want Spec
		ok        bool
	}{
		{Spec{Width: 1, Height: 1}, Spec{Width: 32, Height: 32}, true},
		{Spec{Width: 321, Height: 10}, Spec{Width: 640, Height: 480}, true},
		{Spec{Width: 50, Height: 97, Crop: true}, Spec{Width: 96, Height: 160, Crop: true}, true},
		{Spec{Width: 1601, Height: 1}, Spec{}, false},
		{Spec{Width: 10, Height: 1 << 30, Crop: true}, Spec{}, false},
	} {
		if got, ok := q.ask.Snap(); ok != q.ok || ok && got != q.want {
			t.Errorf("%v: %v %v", q.ask, got, ok)
		}
	}
}

func FuzzMake(f *testing.F) {
	for _, b := range [][]byte{jpegOf(f, picture(40, 30), 6), pngOf(f, picture(40, 30)), gifOf(f, 3, 40, 30), pngClaiming(20_000, 20_000),
		[]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00")} {
		f.Add(b, 32, 16, true, false)
		f.Add(b, 20, 20, false, true)
	}
	files, err := filepath.Glob("testdata/*.jpg")
	must(f, err)
	for _, name := range files {
		file, err := os.ReadFile(name)
		must(f, err)
		f.Add(file, 32, 32, false, false)
	}
	f.Fuzz(func(t *testing.T, file []byte, w, h int, crop, animated bool) {
		spec, ok := Spec{Width: w, Height: h, Crop: crop, Animated: animated}.Snap()
		if !ok || w < 1 || h < 1 {
			return
		}
		r, err := Make(file, spec, Limits{Pixels: 1 << 20, Side: 4096})
		if err != nil || r == nil {
			return
		}
		c, _, err := image.DecodeConfig(bytes.NewReader(r.Content))
		if err != nil || c.Width > spec.Width || c.Height > spec.Height || c.Width < 1 || c.Height < 1 {
			t.Errorf("%v: %d x %d, %v", spec, c.Width, c.Height, err)
		}
	})
}

// photo has at each place something else, as the picture of a camera has: much of the work on a JPEG is to read its numbers.
func photo(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	r := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 4*w)
	for y := range h {
		_, _ = r.Read(noise)
		for x := range w {
			p := img.Pix[y*img.Stride+x*4:][:4]
			wave := 90 + 60*math.Sin(float64(x)/37)*math.Cos(float64(y)/23)
			p[0], p[1], p[2], p[3] = uint8(wave)+noise[4*x]%24, uint8(wave/2)+noise[4*x+1]%24, uint8(y*200/h)+noise[4*x+2]%24, 255
		}
	}
	return img
}

// A picture of 12 megapixels to 800 x 600: one that is nearly empty, and one as a camera makes it.
func BenchmarkMake(b *testing.B)      { benchmarkMake(b, picture(4000, 3000)) }
func BenchmarkMakePhoto(b *testing.B) { benchmarkMake(b, photo(4000, 3000)) }

func benchmarkMake(b *testing.B, img image.Image) {
	file := jpegOf(b, img, 0)
	b.SetBytes(int64(len(file)))
	began := cpu(b)
	for b.Loop() {
		if _, err := Make(file, Spec{Width: 800, Height: 600}, limits); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu(b)-began).Milliseconds())/float64(b.N), "cpu-ms/op")
}

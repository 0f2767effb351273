package thumbnail

import (
	"image"
	"image/draw"

	xdraw "golang.org/x/image/draw"
)

// resize scales a part of a picture to a size, which is that after turning it. Steps of whole pixels come first: each pixel
// of what is left is the mean of a square. What is left is at most twice as large as the result.
func resize(img image.Image, part image.Rectangle, turn, w, h int) *image.RGBA {
	if turn > 4 {
		w, h = h, w
	}
	part = part.Add(img.Bounds().Min).Intersect(img.Bounds())
	step := max(1, min(part.Dx()/max(w, 1), part.Dy()/max(h, 1)))
	src, from := img, part
	if step > 1 {
		small := shrink(img, part, step)
		src, from = small, small.Bounds()
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	xdraw.ApproxBiLinear.Scale(out, out.Bounds(), src, from, draw.Src, nil)
	return out
}

// shrink makes each square of so many pixels one.
func shrink(img image.Image, part image.Rectangle, step int) *image.RGBA {
	w, h := part.Dx()/step, part.Dy()/step
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if y, ok := img.(*image.YCbCr); ok {
		shrinkYCbCr(out, y, part, step)
		return out
	}
	// A band of the picture at a time: what is held does not grow with its height.
	band := image.NewRGBA(image.Rect(0, 0, w*step, step))
	n := uint32(step * step)
	for y := range h {
		draw.Draw(band, band.Bounds(), img, image.Pt(part.Min.X, part.Min.Y+y*step), draw.Src)
		for x := range w {
			var r, g, b, a uint32
			for dy := range step {
				row := band.Pix[dy*band.Stride+x*step*4:][:step*4]
				for i := 0; i < len(row); i += 4 {
					r, g, b, a = r+uint32(row[i]), g+uint32(row[i+1]), b+uint32(row[i+2]), a+uint32(row[i+3])
				}
			}
			p := out.Pix[y*out.Stride+x*4:][:4]
			p[0], p[1], p[2], p[3] = uint8(r/n), uint8(g/n), uint8(b/n), uint8(a/n)
		}
	}
	return out
}

// shrinkYCbCr works on the three planes as they are: most pictures are JPEGs.
func shrinkYCbCr(out *image.RGBA, img *image.YCbCr, part image.Rectangle, step int) {
	w, h := out.Rect.Dx(), out.Rect.Dy()
	small := image.NewYCbCr(out.Rect, image.YCbCrSubsampleRatio444)
	n := uint32(step * step)
	sx, sy := subsampled(img.SubsampleRatio)
	for y := range h {
		for x := range w {
			var sum uint32
			for dy := range step {
				at := img.YOffset(part.Min.X+x*step, part.Min.Y+y*step+dy)
				for _, v := range img.Y[at : at+step] {
					sum += uint32(v)
				}
			}
			i := small.YOffset(x, y)
			small.Y[i] = uint8(sum / n)
			small.Cb[i], small.Cr[i] = chroma(img, part.Min.X+x*step, part.Min.Y+y*step, step, sx, sy)
		}
	}
	draw.Draw(out, out.Rect, small, image.Point{}, draw.Src)
}

// chroma is the mean colour of a square, over the samples that lie in it, whole or in part.
func chroma(img *image.YCbCr, x, y, step, sx, sy int) (cb, cr uint8) {
	cols, rows := (x+step-1)/sx-x/sx+1, (y+step-1)/sy-y/sy+1
	var b, r uint32
	for at, end := img.COffset(x, y), img.COffset(x, y)+rows*img.CStride; at < end; at += img.CStride {
		for _, v := range img.Cb[at : at+cols] {
			b += uint32(v)
		}
		for _, v := range img.Cr[at : at+cols] {
			r += uint32(v)
		}
	}
	n := uint32(rows * cols)
	return uint8(b / n), uint8(r / n)
}

// subsampled is how many pixels a sample of colour stands for, across and down.
func subsampled(r image.YCbCrSubsampleRatio) (sx, sy int) {
	switch r {
	case image.YCbCrSubsampleRatio422:
		return 2, 1
	case image.YCbCrSubsampleRatio420:
		return 2, 2
	case image.YCbCrSubsampleRatio440:
		return 1, 2
	case image.YCbCrSubsampleRatio411:
		return 4, 1
	case image.YCbCrSubsampleRatio410:
		return 4, 2
	}
	return 1, 1
}

package mediastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// s3Bucket is a bucket of S3 as its own client sees it. Uploads go by it and not by gocloud.dev, whose writer holds 16 MB of
// each.
type s3Bucket struct {
	client *s3.Client
	name   string
}

// openS3 opens a bucket of S3 or of what is compatible with it. Credentials come from the environment, as the AWS SDK
// reads it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a file, or the identity of the pod.
func openS3(ctx context.Context, u *url.URL) (*blob.Bucket, *s3Bucket, error) {
	b, err := new(s3blob.URLOpener).OpenBucketURL(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	direct := &s3Bucket{name: u.Host}
	if !b.As(&direct.client) {
		return nil, nil, errors.Join(errors.New("the bucket has no S3 client"), b.Close())
	}
	return b, direct, nil
}

const (
	// partBytes is the least that S3 takes as a part of an upload, and what is held of one whose length is not known.
	partBytes = 5 << 20
	// heldBytes is how long an upload may be that is held whole, so that it can be sent again if S3 is busy.
	heldBytes = 256 << 10
)

// put writes an object of so many bytes (-1: unknown) as they come.
func (b *s3Bucket) put(ctx context.Context, key string, r io.Reader, length int64) error {
	if length > heldBytes {
		return b.stream(ctx, key, r, length)
	}
	first, err := readPart(r, nil)
	if errors.Is(err, io.EOF) {
		_, err = b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(first)}, plain)
		return err
	}
	if err != nil {
		return err
	}
	return b.inParts(ctx, key, first, r)
}

// plain leaves out checksums that not all that is compatible with S3 understands: what is held is signed with its hash.
func plain(o *s3.Options) { o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired }

// sendTries is how often a streamed object is sent while S3 has not taken more of it than what is held.
const sendTries = 3

// stream writes an object whose length is known. What is held of it is its beginning, which can be sent again: connections to a store
// that was restarted fail at once. Its hash is not known before it is sent: TLS guards the bytes.
func (b *s3Bucket) stream(ctx context.Context, key string, r io.Reader, length int64) error {
	head := make([]byte, heldBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	for try := 1; ; try++ {
		again, err := b.send(ctx, key, head, r, length)
		if err == nil || !again || try == sendTries || ctx.Err() != nil {
			return err
		}
	}
}

// send sends an object once. It reports whether that can be repeated: nothing was read but the head.
func (b *s3Bucket) send(ctx context.Context, key string, head []byte, r io.Reader, length int64) (again bool, err error) {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		// The SDK forgets the length of what it knows to be a pipe.
		_, err := b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: struct{ io.Reader }{pr}, ContentLength: &length}, func(o *s3.Options) {
			plain(o)
			o.RetryMaxAttempts = 1
			o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
		})
		// Whoever still writes hears why; after the last byte nobody does.
		pr.CloseWithError(err)
		done <- err
	}()
	if _, err = pw.Write(head); err != nil {
		return true, errors.Join(<-done, err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	if err == nil && n != length-int64(len(head)) {
		err = io.ErrUnexpectedEOF
	}
	pw.CloseWithError(err) // io.EOF if it is nil
	if sent := <-done; err == nil {
		err = sent
	}
	return false, err
}

// readPart reads a part into the memory of the last one, with io.EOF if there are no more. Memory is taken as it arrives.
func readPart(r io.Reader, into []byte) ([]byte, error) {
	b := into[:0]
	for len(b) < partBytes {
		if len(b) == cap(b) {
			b = slices.Grow(b, min(max(len(b), copyBuffer), partBytes-len(b)))
		}
		n, err := r.Read(b[len(b):min(cap(b), partBytes)])
		if b = b[:len(b)+n]; err != nil {
			return b, err
		}
	}
	return b, nil
}

// undone bounds the end of an upload that failed.
const undone = 10 * time.Second

// inParts writes an object whose length is not known, a part at a time.
func (b *s3Bucket) inParts(ctx context.Context, key string, part []byte, r io.Reader) error {
	up, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return err
	}
	parts, err := b.parts(ctx, key, up.UploadId, part, r)
	if err == nil {
		_, err = b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: up.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
	}
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undone)
	defer cancel()
	if _, abortErr := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: up.UploadId}); abortErr != nil {
		return errors.Join(err, fmt.Errorf("its parts stay until the bucket's rule ends them: %w", abortErr))
	}
	return err
}

func (b *s3Bucket) parts(ctx context.Context, key string, upload *string, part []byte, r io.Reader) (done []types.CompletedPart, err error) {
	for n := int32(1); ; n++ {
		sent, sendErr := b.client.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b.name, Key: &key, UploadId: upload, PartNumber: &n, Body: bytes.NewReader(part)}, plain)
		if sendErr != nil {
			return nil, sendErr
		}
		done = append(done, types.CompletedPart{ETag: sent.ETag, PartNumber: aws.Int32(n)})
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if part, err = readPart(r, part); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if len(part) == 0 {
			return done, nil
		}
	}
}

// Link returns an URL by which anybody reads the media from the object store itself for a short time; an empty one if the
// store cannot do that. The answer will have the type and the disposition.
func (s *Store) Link(ctx context.Context, object, contentType, disposition string, life time.Duration) (string, error) {
	if s.s3 == nil {
		return "", nil
	}
	return s.bucket.SignedURL(ctx, object, &blob.SignedURLOptions{Expiry: life, Method: http.MethodGet, BeforeSign: func(as func(any) bool) error {
		var in *s3.GetObjectInput
		if !as(&in) {
			return errors.New("the store does not take response headers")
		}
		in.ResponseContentType, in.ResponseContentDisposition = &contentType, &disposition
		return nil
	}})
}

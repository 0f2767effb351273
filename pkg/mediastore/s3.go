package mediastore

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// openS3 opens a bucket of S3 or of what is compatible with it. Credentials come from the environment, as the AWS SDK
// reads it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a file, or the identity of the pod.
func openS3(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	return new(s3blob.URLOpener).OpenBucketURL(ctx, u)
}

// Link returns an URL by which anybody reads the media from the object store itself for a short time; an empty one if the
// store cannot do that. The answer will have the type and the disposition.
func (s *Store) Link(ctx context.Context, object, contentType, disposition string, life time.Duration) (string, error) {
	if !s.s3 {
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

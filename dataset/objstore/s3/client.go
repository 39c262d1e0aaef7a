package s3

import (
	"context"
	"fmt"
)

// ClientConfig is how another program reaches the bucket, in the names that Iceberg
// clients know. With credentials it has the keys that this process uses: they open
// the whole bucket, so it is told only to those who may have that.
func (s *Store) ClientConfig(ctx context.Context, credentials bool) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	region := s.region
	if region == "" {
		var err error
		if region, err = s.core.GetBucketLocation(ctx, s.bucket); err != nil {
			return nil, s.fail("find the region of bucket", s.bucket, err)
		}
	}
	c := map[string]string{
		"s3.endpoint":          s.core.EndpointURL().String(),
		"s3.path-style-access": "true",
		"s3.region":            region,
		"client.region":        region,
	}
	if !credentials {
		return c, nil
	}
	v, err := s.core.GetCreds()
	if err != nil {
		return nil, fmt.Errorf("objstore: credentials for bucket %s: %w", s.bucket, err)
	}
	if v.AccessKeyID != "" {
		c["s3.access-key-id"], c["s3.secret-access-key"] = v.AccessKeyID, v.SecretAccessKey
		if v.SessionToken != "" {
			c["s3.session-token"] = v.SessionToken
		}
	}
	return c, nil
}

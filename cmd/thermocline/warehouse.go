package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/pflag"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/dataset/objstore/s3"
)

// warehouseFlags say where the tables lie.
type warehouseFlags struct {
	uri, endpoint, region string
}

func (f *warehouseFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.uri, "warehouse", "", "where the tables lie: s3://BUCKET[/PREFIX] (default: warehouse/ in the data directory)")
	flags.StringVar(&f.endpoint, "s3-endpoint", "https://s3.amazonaws.com", "the S3 server, http:// or https://")
	flags.StringVar(&f.region, "s3-region", "", "the bucket's region (default: asked of the server)")
}

// open returns nil for the data directory's own warehouse.
func (f *warehouseFlags) open(ctx context.Context) (objstore.Store, error) {
	if f.uri == "" {
		return nil, nil
	}
	place, ok := strings.CutPrefix(f.uri, "s3://")
	bucket, prefix, _ := strings.Cut(strings.TrimSuffix(place, "/"), "/")
	if !ok || bucket == "" {
		return nil, fmt.Errorf("--warehouse %q: write s3://BUCKET or s3://BUCKET/PREFIX, or leave it out for the data directory", f.uri)
	}
	at, err := url.Parse(f.endpoint)
	if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" || strings.Trim(at.Path, "/") != "" || at.User != nil {
		return nil, fmt.Errorf("--s3-endpoint %q: write http://HOST:PORT or https://HOST; credentials come from the environment", f.endpoint)
	}
	return s3.Open(ctx, s3.Options{Endpoint: at.Host, Insecure: at.Scheme == "http", Region: f.region, Bucket: bucket, Prefix: prefix})
}

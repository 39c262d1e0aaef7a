package reader

import "context"

var a = context.Background()

func b() { b2(context.TODO()) }

func b2(ctx context.Context) { _, cancel := context.WithCancel(ctx); cancel() }

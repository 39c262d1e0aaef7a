package reader

import ctx "context"

var c = ctx.Background()

package reader

import . "context"

var d = Background()

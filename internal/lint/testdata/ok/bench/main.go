package main

import "context"

func main() { _ = context.TODO() }

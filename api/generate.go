package api

// openapi.yaml is the contract; rest (types and routes of the server) and
// client (the Go client) are generated from it and committed. The checksum
// lets a test tell that they are current without the generator at hand.

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config rest/oapi-codegen.yaml openapi.yaml
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config client/oapi-codegen.yaml openapi.yaml
//go:generate sh -c "cat openapi.yaml rest/oapi-codegen.yaml client/oapi-codegen.yaml rest/rest.gen.go client/client.gen.go | sha256sum | cut -c1-64 > openapi.sha256"

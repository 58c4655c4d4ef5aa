// Stubs does what `protoc --go_out --go-grpc_out` does, so that the example needs nothing but Go: it compiles the protos and
// hands them to the two plugins that go.mod names.
//
//	go run ./tools/stubs PROTO_DIR FILE...
package main

import (
	"bytes"
	"context"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"
)

const module = "github.com/thalweg-dev/thalweg/examples/go"

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: stubs PROTO_DIR FILE...")
	}
	protos, names := os.Args[1], os.Args[2:]
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{protos}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	files, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		log.Fatal(err)
	}
	// The stubs become a package of this module, whatever go_package says.
	options := []string{"module=" + module}
	for _, name := range names {
		options = append(options, "M"+name+"="+module+"/gen/"+path.Dir(name)+";thalwegv1")
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		Parameter:      proto.String(strings.Join(options, ",")),
	}
	seen := map[string]bool{}
	for _, file := range files {
		add(request, file, seen)
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := generate(plugin, request); err != nil {
			log.Fatalf("%s: %v", plugin, err)
		}
	}
}

// add appends a file behind those that it imports.
func add(request *pluginpb.CodeGeneratorRequest, file linker.File, seen map[string]bool) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		if imported := file.FindImportByPath(imports.Get(i).Path()); imported != nil {
			add(request, imported, seen)
		}
	}
	request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(protoreflect.FileDescriptor(file)))
}

func generate(plugin string, request *pluginpb.CodeGeneratorRequest) error {
	input, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	command := exec.Command("go", "tool", plugin)
	command.Stdin, command.Stderr = bytes.NewReader(input), os.Stderr
	output, err := command.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return err
	}
	if response.Error != nil {
		log.Fatalf("%s: %s", plugin, response.GetError())
	}
	for _, file := range response.File {
		name := filepath.FromSlash(file.GetName())
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

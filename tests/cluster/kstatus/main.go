// kstatus prints how Flux and kpt judge an object: its status (InProgress, Current, Failed, …) and why. The object is YAML or JSON on stdin.
package main

import (
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

func judge(text []byte) (*status.Result, error) {
	object := &unstructured.Unstructured{}
	whole, err := yaml.YAMLToJSON(text)
	if err == nil {
		err = object.UnmarshalJSON(whole) // its numbers are integers, as kstatus wants them
	}
	if err != nil {
		return nil, fmt.Errorf("not an object: %w", err)
	}
	return status.Compute(object)
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		var result *status.Result
		if result, err = judge(text); err == nil {
			fmt.Printf("%s\t%s\n", result.Status, result.Message)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

package main

import (
	"fmt"
	"math"
	"os"

	ort "github.com/yalue/onnxruntime_go"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func textbook(logits []float32, targets []int64) float64 {
	sum, classes := 0.0, len(logits)/len(targets)
	for i, x := range logits {
		p, alpha := 1/(1+math.Exp(float64(x))), 0.75 // of being right about a negative
		if targets[i/classes] == int64(i%classes) {
			p, alpha = 1-p, 0.25
		}
		sum -= alpha * (1 - p) * (1 - p) * math.Log(p)
	}
	return sum
}

// In ONNX Runtime. This binding has no way to register libraries of operators, so the model's own portable function
// computes the loss.
func inOnnxRuntime(model string, logits []float32, targets []int64) float32 {
	ort.SetSharedLibraryPath(os.Getenv("ONNXRUNTIME_LIBRARY"))
	check(ort.InitializeEnvironment())
	defer ort.DestroyEnvironment()
	features, err := ort.NewTensor(ort.NewShape(int64(len(targets)), int64(len(logits)/len(targets))), logits)
	check(err)
	defer features.Destroy()
	indices, err := ort.NewTensor(ort.NewShape(int64(len(targets))), targets)
	check(err)
	defer indices.Destroy()
	// One loss for each anchor: the binding has no tensors without axes, which the sum is.
	losses, err := ort.NewEmptyTensor[float32](ort.NewShape(int64(len(targets))))
	check(err)
	defer losses.Destroy()
	session, err := ort.NewAdvancedSession(model, []string{"features", "targets"}, []string{"loss_per_anchor"},
		[]ort.Value{features, indices}, []ort.Value{losses}, nil)
	check(err)
	defer session.Destroy()
	check(session.Run())
	var sum float32
	for _, loss := range losses.GetData() {
		sum += loss
	}
	return sum
}

func main() {
	logits := []float32{2, -1, 0.5, -3, -2, -4}
	targets := []int64{0, 3} // an object of class 0; background (K = 3)
	expected := textbook(logits, targets)

	loss, gradient, err := FocalLoss(logits, targets)
	check(err)
	fmt.Printf("the library: %.9g, by the textbook %.9g; gradient %v\n", loss, expected, gradient)
	portable := inOnnxRuntime(os.Args[1], logits, targets)
	fmt.Printf("the portable function in ONNX Runtime: %.9g\n", portable)

	_, _, err = FocalLoss(logits, []int64{0, 4})
	if err == nil {
		check(fmt.Errorf("a class that is not there was accepted"))
	}
	fmt.Println("a class that is not there:", err)
	for _, value := range []float32{loss, portable} {
		if !(math.Abs(float64(value)-expected) <= 2e-6*expected) {
			check(fmt.Errorf("the loss is wrong"))
		}
	}
}

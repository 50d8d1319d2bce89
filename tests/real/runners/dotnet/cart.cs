// Tests of every outcome. The environment says which of them fail.
using System;
using Acme;

namespace Shop {
    public class CartTest {
        static bool Has(string variable) => Environment.GetEnvironmentVariable(variable) != null;

        [Test] public void Adds() { Console.WriteLine("2 apples"); }
        [Test] public void Discounts() { if (Has("BROKEN")) throw new Exception("10 is not 9"); }
        [Test(Skip = "later")] public void Pays() {}
        [Test, Rows(1, 2)] public void Packs(int boxes) { if (boxes > 1 && Has("BROKEN")) throw new ArgumentException("too many"); }
        // The host sends results in tens, so that some have arrived when it ends.
        [Test, Rows(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] public void Weighs(int apples) {}
        [Test] public void Ships() { if (Has("CRASHING")) Environment.FailFast("no route"); }
        [Test] public void Ends() {}
    }
}

// A test framework of three attributes, with its adapter: those of NUnit, xUnit and MSTest are NuGet packages.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Reflection;
using Microsoft.VisualStudio.TestPlatform.ObjectModel;
using Microsoft.VisualStudio.TestPlatform.ObjectModel.Adapter;
using Microsoft.VisualStudio.TestPlatform.ObjectModel.Logging;

namespace Acme {
    public class TestAttribute : Attribute {
        public string Skip;
    }

    public class RowsAttribute : Attribute {
        public readonly object[] Values;
        public RowsAttribute(params object[] values) { Values = values; }
    }

    [DefaultExecutorUri(Name), FileExtension(".dll"), ExtensionUri(Name)]
    public class Adapter : ITestDiscoverer, ITestExecutor {
        const string Name = "executor://acme/1";

        static IEnumerable<TestCase> Find(string source) =>
            from type in Assembly.LoadFrom(source).GetTypes()
            from method in type.GetMethods()
            where method.GetCustomAttribute<TestAttribute>() != null
            from row in method.GetCustomAttribute<RowsAttribute>()?.Values ?? new object[] { null }
            select new TestCase($"{type.FullName}.{method.Name}", new Uri(Name), source) {
                DisplayName = row == null ? method.Name : $"{method.Name}({row})",
                LocalExtensionData = (method, row),
            };

        public void DiscoverTests(
                IEnumerable<string> sources, IDiscoveryContext context, IMessageLogger logger, ITestCaseDiscoverySink sink) {
            foreach (var test in sources.SelectMany(Find)) sink.SendTestCase(test);
        }

        public void RunTests(IEnumerable<TestCase> tests, IRunContext context, IFrameworkHandle handle) {
            throw new NotSupportedException("whole assemblies and filters only");
        }

        public void RunTests(IEnumerable<string> sources, IRunContext context, IFrameworkHandle handle) {
            var filter = context.GetTestCaseFilter(
                new[] { "FullyQualifiedName" }, _ => TestCaseProperties.FullyQualifiedName);
            foreach (var test in sources.SelectMany(Find)) {
                if (filter == null || filter.MatchTestCase(test, _ => test.FullyQualifiedName)) Run(test, handle);
            }
        }

        public void Cancel() {}

        static void Run(TestCase test, IFrameworkHandle handle) {
            var (method, row) = ((MethodInfo, object)) test.LocalExtensionData;
            var result = new TestResult(test) { DisplayName = test.DisplayName, Outcome = TestOutcome.Passed };
            handle.RecordStart(test);
            var (console, output, watch) = (Console.Out, new StringWriter(), Stopwatch.StartNew());
            Console.SetOut(output);
            try {
                result.ErrorMessage = method.GetCustomAttribute<TestAttribute>().Skip;
                if (result.ErrorMessage != null) result.Outcome = TestOutcome.Skipped;
                else method.Invoke(Activator.CreateInstance(method.DeclaringType), row == null ? null : new[] { row });
            } catch (TargetInvocationException error) {
                result.Outcome = TestOutcome.Failed;
                result.ErrorMessage = $"{error.InnerException.GetType().FullName}: {error.InnerException.Message}";
                result.ErrorStackTrace = error.InnerException.StackTrace;
            } finally {
                Console.SetOut(console);
            }
            result.Duration = watch.Elapsed;
            result.Messages.Add(new TestResultMessage(TestResultMessage.StandardOutCategory, output.ToString()));
            handle.RecordEnd(test, result.Outcome);
            handle.RecordResult(result);
        }
    }
}

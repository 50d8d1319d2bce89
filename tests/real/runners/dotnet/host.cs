// The test host, which the SDK leaves to a package: it connects to vstest.console and runs what that asks for.
using System;
using Microsoft.VisualStudio.TestPlatform.Common;
using Microsoft.VisualStudio.TestPlatform.Common.Telemetry;
using Microsoft.VisualStudio.TestPlatform.CommunicationUtilities;
using Microsoft.VisualStudio.TestPlatform.CrossPlatEngine;
using Microsoft.VisualStudio.TestPlatform.ObjectModel;

static class Host {
    const int TimeoutMs = 30000;

    static void Main(string[] args) {
        var requests = new TestRequestHandler {
            ConnectionInfo = new TestHostConnectionInfo {
                Endpoint = args[Array.IndexOf(args, "--endpoint") + 1],
                Role = ConnectionRole.Client,
                Transport = Transport.Sockets,
            },
        };
        requests.InitializeCommunication();
        var data = new RequestData { MetricsCollection = new NoOpMetricsCollection() };
        if (requests.WaitForRequestSenderConnection(TimeoutMs)) requests.ProcessRequests(new TestHostManagerFactory(data));
    }
}

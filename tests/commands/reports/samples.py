"""Small reports in the shapes that tools write, made up for these tests; the fuzzer starts from them too."""

# ruff: noqa: E501  # reports have long lines

TESTHIDE = """<?xml version='1.0' encoding='utf-8'?>
<testsuites>
	<testsuite name="pytest" timestamp="2026-03-01T10:00:00.000Z" hostname="node-1" tests="6" failures="2" errors="1" skipped="1" time="1.234">
		<properties>
			<property name="testhide_schema_version" value="1"/>
			<property name="ip_address" value="10.0.0.7"/>
			<property name="build" value="17"/>
			<property name="branch" value="main"/>
			<property name="shard" value="2 of 4"/>
		</properties>
		<testcase classname="t.test_shop.TestCart" name="test_add[1-\u00e9]" file="t/test_shop.py" line="4" time="0.010" fail_id="" test_resolution="Passed">
			<properties>
				<property name="nodeid" value="t/test_shop.py::TestCart::test_add[1-\u00e9]"/>
				<property name="docstr" value="Adds one."/>
				<property name="attachment" value="shots/1.png"/>
				<property name="attachment" value="https://files.test/2.png"/>
				<property name="jira" value="SHOP-1"/>
				<property name="info" value="slow disk"/>
				<property name="owner" value="cart"/>
			</properties>
			<system-out>step 1
step 2</system-out>
		</testcase>
		<testcase classname="test_shop" name="test_total" file="t/test_shop.py" line="9" time="0.5" fail_id="d41d8cd98f00b204e9800998ecf8427e" test_resolution="Unresolved">
			<failure message="AssertionError: assert 3 == 4">Traceback (most recent call last):
  File "/srv/t/test_shop.py", line 11, in test_total
    check(3, 4)
  File "/srv/t/shop.py", line 3, in check
    assert a == b
AssertionError: assert 3 == 4
</failure>
		</testcase>
		<testcase classname="test_shop" name="test_known" file="t/test_shop.py" line="14" time="0.001" fail_id="aa" test_resolution="known issue">
			<failure message="Known Issue: SHOP-2">t/test_shop.py:14: xfail</failure>
		</testcase>
		<testcase classname="t.test_broken" name="t/test_broken.py" file="t/test_broken.py" line="0" time="0.000" fail_id="" test_resolution="Collection Error">
			<error message="ModuleNotFoundError: No module named 'nothing'">ImportError while importing</error>
		</testcase>
		<testcase classname="test_shop" name="test_later" file="t/test_shop.py" line="20" time="0.000" fail_id="" test_resolution="Skipped">
			<skipped type="pytest.skip" message="not yet">t/test_shop.py:20: not yet</skipped>
		</testcase>
		<testcase classname="test_shop" name="test_xpass" file="t/test_shop.py" line="25" time="0.002" fail_id="" test_resolution="Passed"/>
	</testsuite>
</testsuites>
"""

PYTEST = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="0.100" timestamp="2026-03-01T10:00:00.5+01:00" hostname="box">
<testcase classname="t.test_x.TestDeep.TestInner" name="test_bad[a.b]" time="0.002"><failure message="assert 1 == 2">def test_bad():
&gt;       assert 1 == 2
E       assert 1 == 2

t/test_x.py:7: AssertionError</failure></testcase>
<testcase classname="t.test_x" name="test_fine" time="0.001" />
<testcase classname="t.test_x" name="test_xfail" time="0.001"><skipped type="pytest.xfail" message="" /></testcase>
<testcase classname="" name="t.test_gone" time="0.000"><error message="collection failure">E   SyntaxError</error></testcase>
</testsuite></testsuites>
"""

SUREFIRE = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="https://maven.apache.org/surefire.xsd" version="3.0" name="com.acme.FooTest" time="1,002.5" tests="4" errors="1" skipped="1" failures="1">
  <properties><property name="java.version" value="21"/></properties>
  <testcase name="bar" classname="com.acme.FooTest" time="0.004">
    <failure message="expected: &lt;1&gt; but was: &lt;2&gt;" type="org.opentest4j.AssertionFailedError"><![CDATA[org.opentest4j.AssertionFailedError: expected: <1> but was: <2>
	at org.junit.jupiter.api.AssertionUtils.fail(AssertionUtils.java:55)
	at com.acme.Foo.check(Foo.java:9)
	at com.acme.FooTest.bar(FooTest.java:21)
]]></failure>
    <rerunFailure message="second" type="java.lang.AssertionError" time="0.002"><stackTrace>java.lang.AssertionError: second</stackTrace><system-out>again</system-out></rerunFailure>
    <rerunError message="third" type="java.io.IOException"><stackTrace>java.io.IOException: third</stackTrace></rerunError>
  </testcase>
  <testcase name="shaky" classname="com.acme.FooTest" time="0.010">
    <flakyFailure message="once" type="java.lang.AssertionError"><stackTrace>java.lang.AssertionError: once</stackTrace></flakyFailure>
    <flakyError message="twice" type="java.lang.IllegalStateException"><stackTrace>x</stackTrace></flakyError>
    <system-out><![CDATA[a < b && c]]></system-out>
  </testcase>
  <testcase name="explodes" classname="com.acme.FooTest" time="0">
    <error type="java.lang.NullPointerException">java.lang.NullPointerException
	at com.acme.Foo.run(Foo.java:3)</error>
    <system-err>oops</system-err>
  </testcase>
  <testcase name="later" classname="com.acme.FooTest" time="0"><skipped message="not now"/></testcase>
</testsuite>
"""

JEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="jest tests" tests="3" failures="1" errors="0" time="1.36">
  <testsuite name="src\\sum.test.js" errors="0" failures="1" skipped="1" timestamp="2026-03-01T10:00:00" time="0.4" tests="3">
    <testcase classname="sum \u203a negatives" name="adds" time="0.002">
      <failure>Error: expect(received).toBe(expected)

Expected: 1
    at Object.check (src/sum.js:10:21)
    at Object.asyncJestTest (/ci/node_modules/jest-jasmine2/build/jasmineAsyncInstall.js:106:37)</failure>
    </testcase>
    <testcase classname="sum" name="later" time="0"><skipped/></testcase>
    <testcase classname="" name="plain" time="0.001"></testcase>
  </testsuite>
</testsuites>
"""

MOCHA = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="Mocha Tests" time="0.0040" tests="2" failures="1">
  <testsuite name="Root Suite" timestamp="2026-03-01T10:00:00" tests="0" time="0.0000" failures="0"></testsuite>
  <testsuite name="Array" timestamp="2026-03-01T10:00:00" tests="2" file="test/array.spec.js" time="0.0040" failures="1">
    <testcase name="Array finds" time="0.0010" classname="finds"></testcase>
    <testcase name="Array loses" time="0.0030" classname="loses"><failure message="expected 1 to equal 2" type="AssertionError"><![CDATA[AssertionError: expected 1 to equal 2
    at Context.<anonymous> (test/array.spec.js:9:12)]]></failure></testcase>
  </testsuite>
</testsuites>
"""

PLAYWRIGHT = """<testsuites id="" name="" tests="3" failures="1" skipped="0" errors="0" time="3.1">
<testsuite name="login.spec.ts" timestamp="2026-03-01T10:00:00.000Z" hostname="firefox" tests="3" failures="1" skipped="0" time="3" errors="0">
<testcase name="form \u203a logs in" classname="login.spec.ts" time="1.5">
<failure message="login.spec.ts:3:5 logs in" type="FAILURE"><![CDATA[  [firefox] \u203a login.spec.ts:3:5
    Error: timed out]]></failure>
<system-out><![CDATA[
[[ATTACHMENT|shots/failed.png]]
]]></system-out>
</testcase>
<testcase name="form \u203a logs in" classname="login.spec.ts" time="1.4"></testcase>
<testcase name="title" classname="login.spec.ts" time="0.1"></testcase>
</testsuite>
</testsuites>
"""

GTEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" disabled="1" errors="0" time="0.05" timestamp="2026-03-01T10:00:00.1" name="AllTests">
  <testsuite name="Sizes/ParseTest" tests="3" failures="1" disabled="1" skipped="0" errors="0" time="0.05">
    <testcase name="Reads/0" value_param="4" status="run" result="completed" time="0.02" classname="Sizes/ParseTest"/>
    <testcase name="Reads/1" status="run" result="completed" time="0.02" classname="Sizes/ParseTest">
      <failure message="parse.cc:12&#x0A;Expected equality" type=""><![CDATA[parse.cc:12
Expected equality]]></failure>
      <failure message="parse.cc:13&#x0A;second" type=""><![CDATA[parse.cc:13
second]]></failure>
    </testcase>
    <testcase name="DISABLED_Reads" status="notrun" result="suppressed" time="0" classname="Sizes/ParseTest"/>
  </testsuite>
</testsuites>
"""

GO = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="2" failures="1" errors="0" time="0.3">
	<testsuite tests="2" failures="1" time="0.300000" name="acme.test/pkg" timestamp="2026-03-01T10:00:00Z">
		<properties><property name="go.version" value="go1.24 linux/amd64"></property></properties>
		<testcase classname="acme.test/pkg" name="TestName/sub" time="0.010000"></testcase>
		<testcase classname="acme.test/pkg" name="TestName" time="0.020000">
			<failure message="Failed" type="">=== RUN   TestName&#xA;    pkg_test.go:9: got 1&#xA;</failure>
		</testcase>
	</testsuite>
</testsuites>
"""

NESTED = """<j:testsuites xmlns:j="urn:junit" tests="3">
  <j:testsuite name="outer" tests="3" failures="1">
    <j:testsuite name="inner" tests="2" failures="1">
      <j:testcase name="a" classname="C"/>
      <j:testcase name="b" classname="C"><j:failure/></j:testcase>
    </j:testsuite>
    <j:testcase name="c" classname="C"/>
  </j:testsuite>
</j:testsuites>
"""

NUNIT = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<test-run id="0" testcasecount="4" result="Failed" total="4" passed="1" failed="2" inconclusive="0" skipped="1" start-time="2026-03-01 10:00:00Z" duration="0.23">
  <test-suite type="Assembly" name="Acme.Tests.dll" fullname="C:/ci/Acme.Tests.dll" result="Failed" total="4" passed="1" failed="2" inconclusive="0" skipped="1">
    <test-suite type="TestFixture" name="FooTests" fullname="Acme.Tests.FooTests" total="4" passed="1" failed="2" inconclusive="0" skipped="1">
      <test-case name="Adds" fullname="Acme.Tests.FooTests.Adds" methodname="Adds" classname="Acme.Tests.FooTests" result="Passed" duration="0.001"/>
      <test-case name="Breaks" fullname="Acme.Tests.FooTests.Breaks" classname="Acme.Tests.FooTests" result="Failed" label="Error" duration="0.020">
        <failure><message><![CDATA[System.DivideByZeroException : Attempted to divide by zero.]]></message>
        <stack-trace><![CDATA[   at Acme.Calculator.Div(Int32 a, Int32 b) in C:\\ci\\Calculator.cs:line 9
   at Acme.Tests.FooTests.Breaks() in C:\\ci\\FooTests.cs:line 33
]]></stack-trace></failure>
        <output><![CDATA[said this]]></output>
        <attachments><attachment><filePath>C:/ci/shot.png</filePath></attachment></attachments>
      </test-case>
      <test-suite type="Theory" name="Even" fullname="Acme.Tests.FooTests.Even" total="1" passed="0" failed="1" skipped="0">
        <test-case name="Even(3)" fullname="Acme.Tests.FooTests.Even(3)" classname="Acme.Tests.FooTests" result="Failed" duration="0.001"><failure/></test-case>
      </test-suite>
      <test-case name="Later" fullname="Acme.Tests.FooTests.Later" classname="Acme.Tests.FooTests" result="Skipped" label="Ignored"><reason><message>not yet</message></reason></test-case>
    </test-suite>
  </test-suite>
</test-run>
"""

XUNIT = """<?xml version="1.0" encoding="utf-8"?>
<assemblies timestamp="03/01/2026 10:00:00">
  <assembly name="C:\\ci\\Acme.Tests.dll" run-date="2026-03-01" run-time="10:00:00" total="3" passed="1" failed="1" skipped="1" time="0.5" errors="1">
    <errors><error type="test-class-cleanup" name="Acme.FooTests"><failure exception-type="System.IO.IOException"><message>busy</message><stack-trace>at X</stack-trace></failure></error></errors>
    <collection total="3" passed="1" failed="1" skipped="1" name="Test collection for Acme.FooTests (id: 1f)" time="0.4">
      <test name="Acme.FooTests.Adds(x: 1)" type="Acme.FooTests" method="Adds" time="0.01" result="Pass"><traits><trait name="area" value="math"/></traits></test>
      <test name="Acme.FooTests.Fails" type="Acme.FooTests" method="Fails" time="0.02" result="Fail"><failure exception-type="Xunit.Sdk.EqualException"><message><![CDATA[Assert.Equal() Failure]]></message><stack-trace><![CDATA[   at Acme.FooTests.Fails() in FooTests.cs:line 5]]></stack-trace></failure><output>hello</output></test>
      <test name="Acme.FooTests.Later" type="Acme.FooTests" method="Later" time="0" result="Skip"><reason><![CDATA[not yet]]></reason></test>
    </collection>
  </assembly>
</assemblies>
"""

TRX = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<TestRun id="61a44da7" name="run" xmlns="http://microsoft.com/schemas/VisualStudio/TeamTest/2010">
  <Times start="2026-03-01T10:00:00" />
  <Results>
    <UnitTestResult executionId="e1" testId="11111111-0000-0000-0000-000000000001" testName="Adds" duration="00:00:01.5000000" outcome="Passed"/>
    <UnitTestResult executionId="e2" testId="11111111-0000-0000-0000-000000000002" testName="Acme.FooTests.Fails" duration="00:00:00.0100000" outcome="Failed">
      <Output><StdOut>said</StdOut><ErrorInfo><Message>Assert.True() Failure&#xD;
Expected: True</Message><StackTrace>   at Acme.FooTests.Fails() in C:\\ci\\FooTests.cs:line 5</StackTrace></ErrorInfo></Output>
      <ResultFiles><ResultFile path="shot.png"/></ResultFiles>
    </UnitTestResult>
    <UnitTestResult executionId="e3" testId="11111111-0000-0000-0000-000000000003" testName="Rows" outcome="Passed" resultType="DataDrivenTest">
      <InnerResults><UnitTestResult testId="11111111-0000-0000-0000-000000000003" testName="Rows (1)" outcome="Passed" duration="00:00:00.001"/></InnerResults>
    </UnitTestResult>
    <UnitTestResult executionId="e4" testId="11111111-0000-0000-0000-000000000004" testName="Later" outcome="NotExecuted"/>
  </Results>
  <TestDefinitions>
    <UnitTest name="Adds" id="11111111-0000-0000-0000-000000000001"><TestMethod className="Acme.BarTests, Acme, Version=1.0.0.0" name="Adds"/></UnitTest>
    <UnitTest name="Fails" id="11111111-0000-0000-0000-000000000002"><TestMethod className="Acme.FooTests" name="Fails"/></UnitTest>
    <UnitTest name="Rows" id="11111111-0000-0000-0000-000000000003"><TestMethod className="Acme.FooTests" name="Rows"/></UnitTest>
    <UnitTest name="Later" id="11111111-0000-0000-0000-000000000004"><TestMethod className="Acme.FooTests" name="Later"/></UnitTest>
  </TestDefinitions>
  <ResultSummary outcome="Failed"><Counters total="4" executed="3" passed="2" failed="1" error="0" timeout="0" aborted="0"/></ResultSummary>
</TestRun>
"""

ALL = {
    "testhide": TESTHIDE,
    "pytest": PYTEST,
    "surefire": SUREFIRE,
    "jest": JEST,
    "mocha": MOCHA,
    "playwright": PLAYWRIGHT,
    "gtest": GTEST,
    "go": GO,
    "nested": NESTED,
    "nunit": NUNIT,
    "xunit": XUNIT,
    "trx": TRX,
}

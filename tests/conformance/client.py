"""An echo client on Autobahn|Python: answers every case of the suite's fuzzing server, one connection each.

Usage: client.py CASES_URL FUZZER_URL AGENT. CASES_URL is where cases are run, directly or through the gateway;
FUZZER_URL is the fuzzing server itself, asked for how many cases there are and, in the end, to write its reports.
"""

import sys

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from twisted.internet import reactor

cases_url, fuzzer_url, agent = sys.argv[1:4]


class Echo(WebSocketClientProtocol):
    def onMessage(self, payload, is_binary):
        self.sendMessage(payload, is_binary)


class Count(WebSocketClientProtocol):
    def onMessage(self, payload, is_binary):
        self.factory.count = int(payload)


class Steps(WebSocketClientFactory):
    """Asks for the count, runs each case, asks for the reports."""

    count = None
    case = 0

    def next(self):
        if self.count is None:
            self.connect(Count, fuzzer_url + "/getCaseCount")
        elif self.case < self.count:
            self.case += 1
            self.connect(Echo, "{}/runCase?case={}&agent={}".format(cases_url, self.case, agent))
        elif self.case == self.count:
            self.case += 1
            self.connect(Count, "{}/updateReports?agent={}".format(fuzzer_url, agent))
        else:
            reactor.stop()

    def connect(self, protocol, url):
        self.protocol = protocol
        self.setSessionParameters(url=url, useragent=agent)
        self.setProtocolOptions(failByDrop=False, openHandshakeTimeout=20)
        connectWS(self)

    def clientConnectionLost(self, connector, reason):
        if self.count is None:
            print("the fuzzing server did not say how many cases there are", file=sys.stderr)
            reactor.stop()
        else:
            self.next()

    def clientConnectionFailed(self, connector, reason):
        print("case {}: {}".format(self.case, reason.getErrorMessage()), file=sys.stderr)
        self.next()


steps = Steps()
steps.next()
reactor.run()

package it;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.coyote.http2.Http2Protocol;
import org.apache.tomcat.util.net.SSLHostConfig;
import org.apache.tomcat.util.net.SSLHostConfigCertificate;

final class TomcatServer extends HttpServlet {
  private final File cert, key;
  private final Tomcat tomcat = new Tomcat();

  TomcatServer(File cert, File key) throws IOException {
    this.cert = cert;
    this.key = key;
    tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
    var context = tomcat.addContext("", null);
    Tomcat.addServlet(context, "app", this);
    context.addServletMappingDecoded("/*", "app");
  }

  void listen(int port, boolean http2, boolean tls) {
    var c = new Connector();
    c.setPort(port);
    c.setProperty("maxThreads", "20");
    c.setProperty("minSpareThreads", "1");
    c.setProperty("maxKeepAliveRequests", "-1");
    c.setProperty("connectionTimeout", "600000");
    c.setProperty("keepAliveTimeout", "600000");
    if (tls) {
      c.setSecure(true);
      c.setScheme("https");
      c.setProperty("SSLEnabled", "true");
      var host = new SSLHostConfig();
      var certificate = new SSLHostConfigCertificate(host, SSLHostConfigCertificate.Type.UNDEFINED);
      certificate.setCertificateFile(cert.getPath());
      certificate.setCertificateKeyFile(key.getPath());
      host.addCertificate(certificate);
      c.addSslHostConfig(host);
    }
    if (http2) {
      var protocol = new Http2Protocol();
      protocol.setReadTimeout(600000);
      protocol.setKeepAliveTimeout(600000);
      protocol.setStreamReadTimeout(600000);
      protocol.setStreamWriteTimeout(600000);
      c.addUpgradeProtocol(protocol);
    }
    tomcat.getService().addConnector(c);
  }

  void start() throws Exception { tomcat.start(); }

  @Override
  protected void service(HttpServletRequest q, HttpServletResponse a) throws IOException {
    try {
      String query = q.getQueryString(), id = App.value(query, "id");
      if (!id.isEmpty()) App.arrived.add(id);
      switch (q.getRequestURI()) {
        case "/fast" -> {
          q.getInputStream().readAllBytes();
          a.getOutputStream().write("an answer".getBytes());
        }
        case "/large" -> a.getOutputStream().write(App.LARGE);
        case "/slow" -> {
          String ms = App.value(query, "ms");
          Thread.sleep(ms.isEmpty() ? 600_000 : Long.parseLong(ms));
          a.getOutputStream().write("at last".getBytes());
        }
        case "/upload" -> {
          q.getInputStream().readAllBytes();
          a.getOutputStream().write("thank you".getBytes());
        }
        case "/stream" -> {
          while (true) {
            a.getOutputStream().write("an event\n".getBytes());
            a.flushBuffer();
            Thread.sleep(50);
          }
        }
        case "/endless" -> {
          while (true) a.getOutputStream().write(App.LARGE);
        }
        default -> a.setStatus(404);
      }
    } catch (InterruptedException e) {
      throw new IOException(e);
    }
  }
}

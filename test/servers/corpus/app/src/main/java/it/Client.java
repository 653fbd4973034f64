package it;

import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * The JDK's HTTP client: java it.Client {1|2} BODY HOST:PORT URL… asks for each URL after the answer to the one before, by a POST
 * if BODY is not empty, then connects to HOST:PORT, and keeps its connections until its input ends.
 */
public final class Client {
  public static void main(String[] args) throws Exception {
    var tls = SSLContext.getInstance("TLS");
    tls.init(null, new TrustManager[] {new X509TrustManager() {
      public void checkClientTrusted(X509Certificate[] chain, String type) {}
      public void checkServerTrusted(X509Certificate[] chain, String type) {}
      public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }}, new SecureRandom());
    var client = HttpClient.newBuilder().sslContext(tls)
        .version(args[0].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1).build();
    for (int i = 3; i < args.length; i++) {
      var request = HttpRequest.newBuilder(URI.create(args[i]));
      if (!args[1].isEmpty()) request.POST(HttpRequest.BodyPublishers.ofString(args[1]));
      client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
    }
    int colon = args[2].lastIndexOf(':');
    try (var done = new Socket(args[2].substring(0, colon), Integer.parseInt(args[2].substring(colon + 1)))) {
      System.in.read();
    }
  }
}

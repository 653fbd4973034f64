package it;

import java.util.List;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.client5.http.impl.io.PoolingHttpClientConnectionManagerBuilder;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Lazy;
import org.springframework.context.annotation.Profile;
import org.springframework.http.ResponseEntity;
import org.springframework.http.client.HttpComponentsClientHttpRequestFactory;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestTemplate;

/**
 * A caller as Spring Cloud makes them: LoadBalancer with its caches as they are, kept-alive connections, and not one
 * request sent twice. It makes a call of the service for each that it is sent: what it saw is its answer.
 */
@Configuration
@Profile("caller")
public class Caller {
  @Bean
  @LoadBalanced
  RestTemplate toOrders() {
    var connections = PoolingHttpClientConnectionManagerBuilder.create().setMaxConnPerRoute(200).setMaxConnTotal(1000).build();
    var client = HttpClients.custom().setConnectionManager(connections).disableAutomaticRetries().build();
    return new RestTemplate(new HttpComponentsClientHttpRequestFactory(client));
  }

  @RestController
  @Profile("caller")
  static class Web {
    private final RestTemplate orders;
    private final DiscoveryClient discovery;

    Web(@Lazy RestTemplate orders, DiscoveryClient discovery) {
      this.orders = orders;
      this.discovery = discovery;
    }

    @GetMapping("/call")
    ResponseEntity<String> call(@RequestParam long ms) {
      try {
        return ResponseEntity.ok(orders.postForObject("http://orders/work?ms=" + ms, null, String.class));
      } catch (Exception e) {
        return ResponseEntity.status(502).body(e.getClass().getSimpleName() + ": " + e.getMessage());
      }
    }

    /** What the registry's client knows, without the balancer's cache. */
    @GetMapping("/seen")
    List<String> seen() {
      return discovery.getInstances("orders").stream().map(i -> i.getHost() + ":" + i.getPort()).sorted().toList();
    }
  }
}

package it;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.core.env.Environment;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.security.web.util.matcher.RequestMatcher;

/**
 * A Eureka server behind basic auth. sec.csrf=on leaves CSRF protection on, Spring Security's default; sec.readonly=on
 * lets nobody write. Both are for prestop alone: the tests' apps must be able to register. A refusal is forwarded to
 * /error, where it turns into a 401 unless that page is open to all, by sec.error=open.
 */
@SpringBootApplication
@EnableEurekaServer
public class Server {
  public static void main(String[] args) {
    SpringApplication.run(Server.class, args);
  }

  @Bean
  SecurityFilterChain chain(HttpSecurity http, Environment env) throws Exception {
    RequestMatcher prestop = r -> String.valueOf(r.getHeader("User-Agent")).startsWith("prestop");
    RequestMatcher writes = r -> prestop.matches(r) && !"GET".equals(r.getMethod());
    boolean csrf = "on".equals(env.getProperty("sec.csrf"));
    boolean readonly = "on".equals(env.getProperty("sec.readonly"));
    http.authorizeHttpRequests(r -> {
      if ("open".equals(env.getProperty("sec.error"))) {
        r.requestMatchers("/error").permitAll();
      }
      if (readonly) {
        r.requestMatchers(writes).hasRole("ADMIN");
      }
      r.anyRequest().authenticated();
    }).httpBasic(Customizer.withDefaults());
    http.csrf(c -> c.ignoringRequestMatchers(r -> !csrf || !prestop.matches(r)));
    return http.build();
  }
}

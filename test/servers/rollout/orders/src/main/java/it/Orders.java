package it;

import io.grpc.BindableService;
import io.grpc.MethodDescriptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.stub.ServerCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.cloud.client.serviceregistry.AutoServiceRegistrationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Profile;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/**
 * The service that is rolled out: it works as long as it is asked to, over HTTP on /work?ms=… and over gRPC by orders/work,
 * whose message is the number. It knows nothing of prestop.
 */
@SpringBootApplication
@EnableConfigurationProperties(AutoServiceRegistrationProperties.class)
public class Orders {
  public static void main(String[] args) {
    SpringApplication.run(Orders.class, args);
  }

  @RestController
  @Profile("!caller")
  static class Web {
    @RequestMapping("/work")
    String work(@RequestParam long ms) throws InterruptedException {
      Thread.sleep(ms);
      return "done";
    }
  }

  @Bean
  @Profile("!caller")
  BindableService grpc() {
    MethodDescriptor<String, String> work = MethodDescriptor.<String, String>newBuilder(TEXT, TEXT)
        .setType(MethodDescriptor.MethodType.UNARY).setFullMethodName("orders/work").build();
    return () -> ServerServiceDefinition.builder("orders").addMethod(work, ServerCalls.asyncUnaryCall((ms, answer) -> {
      try {
        Thread.sleep(Long.parseLong(ms));
        answer.onNext("done");
        answer.onCompleted();
      } catch (InterruptedException e) {
        answer.onError(e);
      }
    })).build();
  }

  /** A message of plain text: no code is generated for two of them. */
  private static final MethodDescriptor.Marshaller<String> TEXT = new MethodDescriptor.Marshaller<>() {
    @Override
    public InputStream stream(String text) {
      return new ByteArrayInputStream(text.getBytes(StandardCharsets.UTF_8));
    }

    @Override
    public String parse(InputStream stream) {
      try {
        return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  };
}

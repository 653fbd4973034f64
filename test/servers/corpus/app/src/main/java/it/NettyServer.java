package it;

import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.MultiThreadIoEventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioIoHandler;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.DefaultHttpContent;
import io.netty.handler.codec.http.DefaultHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpObject;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.handler.codec.http2.Http2FrameCodecBuilder;
import io.netty.handler.codec.http2.Http2MultiplexHandler;
import io.netty.handler.codec.http2.Http2StreamFrameToHttpObjectCodec;
import io.netty.handler.ssl.ApplicationProtocolConfig;
import io.netty.handler.ssl.SslContext;
import io.netty.handler.ssl.SslContextBuilder;
import java.io.File;
import java.net.URI;
import java.util.concurrent.TimeUnit;

final class NettyServer {
  private final EventLoopGroup loops = new MultiThreadIoEventLoopGroup(2, NioIoHandler.newFactory());
  private final SslContext one, two;

  NettyServer(File cert, File key) throws Exception {
    one = SslContextBuilder.forServer(cert, key).build();
    two = SslContextBuilder.forServer(cert, key).applicationProtocolConfig(new ApplicationProtocolConfig(
        ApplicationProtocolConfig.Protocol.ALPN, ApplicationProtocolConfig.SelectorFailureBehavior.NO_ADVERTISE,
        ApplicationProtocolConfig.SelectedListenerFailureBehavior.ACCEPT, "h2")).build();
  }

  void listen(int port, boolean http2, boolean tls) throws Exception {
    new ServerBootstrap().group(loops).channel(NioServerSocketChannel.class).childHandler(new ChannelInitializer<Channel>() {
      @Override
      protected void initChannel(Channel c) {
        if (tls) c.pipeline().addLast((http2 ? two : one).newHandler(c.alloc()));
        if (!http2) {
          c.pipeline().addLast(new HttpServerCodec(), new Answer());
          return;
        }
        c.pipeline().addLast(Http2FrameCodecBuilder.forServer().build(), new Http2MultiplexHandler(new ChannelInitializer<Channel>() {
          @Override
          protected void initChannel(Channel stream) {
            stream.pipeline().addLast(new Http2StreamFrameToHttpObjectCodec(true), new Answer());
          }
        }));
      }
    }).bind(port).sync();
  }

  private static final class Answer extends SimpleChannelInboundHandler<HttpObject> {
    private URI uri;
    private boolean endless;

    @Override
    protected void channelRead0(ChannelHandlerContext c, HttpObject o) {
      if (o instanceof HttpRequest q) {
        uri = URI.create(q.uri());
        String id = App.value(uri.getQuery(), "id");
        if (!id.isEmpty()) App.arrived.add(id);
        switch (uri.getPath()) {
          case "/stream" -> {
            begin(c);
            event(c);
          }
          case "/endless" -> {
            begin(c);
            endless = true;
            flood(c);
          }
        }
      }
      if (!(o instanceof LastHttpContent)) return;
      switch (uri.getPath()) {
        case "/fast" -> full(c, "an answer".getBytes());
        case "/upload" -> full(c, "thank you".getBytes());
        case "/large" -> full(c, App.LARGE);
        case "/slow" -> {
          String ms = App.value(uri.getQuery(), "ms");
          if (!ms.isEmpty()) c.executor().schedule(() -> full(c, "at last".getBytes()), Long.parseLong(ms), TimeUnit.MILLISECONDS);
        }
      }
    }

    private void full(ChannelHandlerContext c, byte[] body) {
      var a = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK, Unpooled.wrappedBuffer(body));
      a.headers().set(HttpHeaderNames.CONTENT_LENGTH, body.length);
      c.writeAndFlush(a);
    }

    private void begin(ChannelHandlerContext c) {
      var a = new DefaultHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK);
      HttpUtil.setTransferEncodingChunked(a, true);
      c.writeAndFlush(a);
    }

    private void event(ChannelHandlerContext c) {
      if (!c.channel().isActive()) return;
      c.writeAndFlush(new DefaultHttpContent(Unpooled.wrappedBuffer("an event\n".getBytes())));
      c.executor().schedule(() -> event(c), 50, TimeUnit.MILLISECONDS);
    }

    private void flood(ChannelHandlerContext c) {
      while (endless && c.channel().isActive() && c.channel().isWritable())
        c.writeAndFlush(new DefaultHttpContent(Unpooled.wrappedBuffer(App.LARGE)));
    }

    @Override
    public void channelWritabilityChanged(ChannelHandlerContext c) {
      flood(c);
      c.fireChannelWritabilityChanged();
    }

    @Override
    public void exceptionCaught(ChannelHandlerContext c, Throwable e) {
      c.close(); // the client has gone
    }
  }
}

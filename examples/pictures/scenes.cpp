#include "pictures/scenes.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <sstream>

#include <mole/core/error.hpp>
#include <mole/io/json.hpp>

namespace pictures {

namespace {

const char* article(const std::string& name) {
  return std::string("aeiou").find(name.front()) != std::string::npos ? "an " : "a ";
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(lower(text));
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

/// Numbers of a stream, one after another.
class Draw {
 public:
  explicit Draw(mole::RandomStream stream) : stream_(stream) {}
  /// In [low, high).
  float between(double low, double high) {
    return static_cast<float>(low + (high - low) * mole::uniform(stream_, next_++));
  }
  /// Of n.
  std::size_t choose(std::size_t n) {
    return std::min(n - 1,
                    static_cast<std::size_t>(mole::uniform(stream_, next_++) * static_cast<double>(n)));
  }

 private:
  mole::RandomStream stream_;
  Index next_ = 0;
};

/// Where a row or column of a sprite is read: between texels `at` and at + 1, `part` of the way.
struct Between {
  Index at;
  float part;
};

/// Of each row or column of a canvas where it reads a sprite, and which of them do: [begin, end).
struct SpriteLines {
  std::array<Between, 2 * side> lines;
  Index begin = 2 * side, end = 0;

  SpriteLines(float centre, float size) {
    constexpr auto n = static_cast<float>(Sprites::size);
    for (Index i = 0; i < 2 * side; ++i) {
      const float pixel = (static_cast<float>(i) + 0.5f) / 2;
      const float source = ((pixel - centre) / size + 0.5f) * n - 0.5f;
      if (source <= -1 || source >= n) continue;
      const auto at = static_cast<Index>(std::floor(source));
      lines[static_cast<std::size_t>(i)] = {at, source - static_cast<float>(at)};
      begin = std::min(begin, i);
      end = i + 1;
    }
  }
  const Between& operator[](Index i) const { return lines[static_cast<std::size_t>(i)]; }
};

/// Adds one sprite, bilinearly sampled and clear beyond its edge, over a canvas [2 side, 2 side, 3].
void add_sprite(const float* sprite, const Placement::Object& object, std::vector<float>& canvas) {
  constexpr Index fine = 2 * side, n = Sprites::size;
  static constexpr std::array<float, 4> clear{};
  const auto texel = [&](Index x, Index y) {
    return x < 0 || y < 0 || x >= n || y >= n ? clear.data() : sprite + (y * n + x) * 4;
  };
  const SpriteLines rows(object.y, object.size), columns(object.x, object.size);
  for (Index y = rows.begin; y < rows.end; ++y) {
    const auto [y0, dy] = rows[y];
    for (Index x = columns.begin; x < columns.end; ++x) {
      const auto [x0, dx] = columns[x];
      const float *const a = texel(x0, y0), *const b = texel(x0 + 1, y0), *const c = texel(x0, y0 + 1),
                         *const d = texel(x0 + 1, y0 + 1);
      float value[4];
      for (int k = 0; k < 4; ++k)
        value[k] = (1 - dy) * ((1 - dx) * a[k] + dx * b[k]) + dy * ((1 - dx) * c[k] + dx * d[k]);
      float* const to = canvas.data() + (y * fine + x) * 3;
      for (int k = 0; k < 3; ++k) to[k] = to[k] * (1 - value[3]) + value[k];
    }
  }
}

}  // namespace

Index Sprites::find(const std::string& name) const {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    std::string known;
    for (Index i = 0; i < subjects; ++i) known += (i == 0 ? "" : ", ") + names[static_cast<std::size_t>(i)];
    throw mole::ArgumentError("there is no emoji called \"" + name + "\"; the subjects are " + known +
                              ", and `pictures words` lists all " + std::to_string(names.size()) +
                              ". A LoRA of your own is called by its folder, which needs its subject's name");
  }
  return found - names.begin();
}

Sprites read_sprites(const std::filesystem::path& folder) {
  const auto path = folder / "sprites.json";
  const auto json = mole::read_json_object(path);
  Sprites sprites;
  Index columns = 0;
  try {
    MOLE_CHECK_FORMAT(json.at("size").get<Index>() == Sprites::size, path, "expected sprites of",
                      Sprites::size, "pixels");
    columns = json.at("columns").get<Index>();
    sprites.subjects = json.at("subjects").get<Index>();
    sprites.names = json.at("names").get<std::vector<std::string>>();
  } catch (const mole::Json::exception& error) {
    throw mole::FormatError(mole::message(path, "expected size, columns, subjects and names:", error.what()));
  }
  const auto sheet = common::read_png(folder / "sprites.png", 4);
  MOLE_CHECK_FORMAT(columns >= 1 && columns <= 1000 && sprites.subjects >= 1 &&
                        sprites.subjects < sprites.count() && sheet.width == columns * Sprites::size &&
                        sheet.height == (sprites.count() + columns - 1) / columns * Sprites::size,
                    path, "tells of", sprites.count(), "sprites in", columns, "columns, but the sheet is",
                    sheet.width, "x", sheet.height);
  for (Index i = 0; i < sprites.count(); ++i)
    for (Index y = 0; y < Sprites::size; ++y) {
      const auto* const row = sheet.at(i % columns * Sprites::size, i / columns * Sprites::size + y);
      for (Index x = 0; x < Sprites::size * 4; ++x)
        sprites.pixels.push_back(static_cast<float>(row[x]) / 255);
    }
  return sprites;
}

std::string caption(const Scene& scene, const Sprites& sprites) {
  const auto object = [&](std::size_t i) {
    const auto& name = sprites.names[static_cast<std::size_t>(scene.objects.at(i))];
    return article(name) + name;
  };
  std::string text = object(0);
  if (scene.layout == Layout::left_of || scene.layout == Layout::triangle) text += " left of " + object(1);
  if (scene.layout == Layout::above) text += " above " + object(1);
  if (scene.layout == Layout::triangle) text += " above " + object(2);
  return text + " on " + colours[scene.colour].name;
}

Scene parse_scene(const std::string& text, const Sprites& sprites) {
  const auto wrong = [&](const std::string& why) {
    return mole::ArgumentError(
        "prompt \"" + text + "\": " + why +
        "; write \"a X on COLOUR\", \"a X left of a Y on COLOUR\", \"a X above a Y on COLOUR\" or "
        "\"a X left of a Y above a Z on COLOUR\" (`pictures words` lists emoji and colours)");
  };
  auto words = words_of(text);
  const auto on = std::find(words.begin(), words.end(), "on");
  if (on == words.end() || on + 2 != words.end()) throw wrong("it does not end in \"on\" and one colour");
  Scene scene;
  const auto colour =
      std::find_if(colours.begin(), colours.end(), [&](const Colour& c) { return words.back() == c.name; });
  if (colour == colours.end()) throw wrong("there is no background \"" + words.back() + "\"");
  scene.colour = static_cast<std::size_t>(colour - colours.begin());
  words.erase(on, words.end());
  std::vector<std::string> names(1), relations;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool left = words[i] == "left" && i + 1 < words.size() && words[i + 1] == "of";
    if (left || words[i] == "above") {
      relations.push_back(words[i]);
      names.emplace_back();
      i += left;
    } else if (!(names.back().empty() && (words[i] == "a" || words[i] == "an"))) {
      names.back() += (names.back().empty() ? "" : " ") + words[i];
    }
  }
  for (const auto& name : names) {
    if (name.empty()) throw wrong("a name is missing");
    scene.objects.push_back(sprites.find(name));
  }
  using List = std::vector<std::string>;
  if (relations == List{"left"})
    scene.layout = Layout::left_of;
  else if (relations == List{"above"})
    scene.layout = Layout::above;
  else if (relations == List{"left", "above"})
    scene.layout = Layout::triangle;
  else if (!relations.empty())
    throw wrong("it puts objects in no order that is known");
  return scene;
}

Placement place(Layout layout, mole::RandomStream random, SizeRange alone) {
  Draw draw(random);
  Placement placement;
  if (layout == Layout::alone) {
    const float size = draw.between(alone.least, alone.most);
    const float x = draw.between(size / 2, side - size / 2), y = draw.between(size / 2, side - size / 2);
    placement.objects = {{x, y, size}};
  } else if (layout == Layout::triangle) {
    const float third = draw.between(-4, 4);
    constexpr float x[] = {8, 24, 16}, y[] = {8.2f, 8.2f, 23.6f};
    for (int i = 0; i < 3; ++i) {
      const float shift = i == 2 ? third : 0;
      placement.objects.push_back(
          {x[i] + draw.between(-0.6, 0.6) + shift, y[i] + draw.between(-0.5, 0.5), draw.between(12.5, 15.2)});
    }
  } else {
    const float common = draw.between(-4, 4);
    for (int i = 0; i < 2; ++i) {
      const float along = (i == 0 ? 8.f : 24.f) + draw.between(-0.8, 0.8),
                  across = 16 + common + draw.between(-1.5, 1.5), size = draw.between(13, 16);
      if (layout == Layout::left_of)
        placement.objects.push_back({along, across, size});
      else
        placement.objects.push_back({across, along, size});
    }
  }
  for (float& channel : placement.jitter) channel = draw.between(-1, 1);
  return placement;
}

std::vector<float> render(const Scene& scene, const Placement& placement, const Sprites& sprites) {
  constexpr Index fine = 2 * side;
  MOLE_CHECK_ARG(scene.objects.size() == placement.objects.size(), "render: a scene of", scene.objects.size(),
                 "objects and places for", placement.objects.size());
  std::array<float, 3> plain;
  for (std::size_t c = 0; c < 3; ++c)
    plain[c] = static_cast<float>(colours[scene.colour].rgb[c]) / 255 + placement.jitter[c] * 0.03f;
  std::vector<float> canvas(static_cast<std::size_t>(fine * fine * 3));
  for (float* pixel = canvas.data(); pixel != canvas.data() + fine * fine * 3; pixel += 3)
    std::copy(plain.begin(), plain.end(), pixel);
  for (std::size_t i = 0; i < scene.objects.size(); ++i)
    add_sprite(sprites.of(scene.objects[i]), placement.objects[i], canvas);
  std::vector<float> picture(static_cast<std::size_t>(side * side * 3));
  for (Index y = 0; y < side; ++y) {
    const float *const high = canvas.data() + 2 * y * fine * 3, *const low = high + fine * 3;
    for (Index x = 0; x < side; ++x)
      for (Index c = 0; c < 3; ++c) {
        const Index left = 6 * x + c, right = left + 3;
        const float mean = (high[left] + high[right] + low[left] + low[right]) / 4;
        picture[static_cast<std::size_t>((y * side + x) * 3 + c)] = std::clamp(mean, 0.f, 1.f) * 2 - 1;
      }
  }
  return picture;
}

Scene random_scene(const std::vector<Index>& sprites, mole::RandomStream random) {
  MOLE_CHECK_ARG(sprites.size() >= 3, "random_scene: expected three sprites or more, got", sprites.size());
  Draw draw(random);
  Scene scene;
  const float kind = draw.between(0, 1);
  scene.layout = kind < 0.3f    ? Layout::alone
                 : kind < 0.55f ? Layout::left_of
                 : kind < 0.8f  ? Layout::above
                                : Layout::triangle;
  scene.colour = draw.choose(colours.size());
  while (scene.objects.size() < object_count(scene.layout)) {
    const Index next = sprites[draw.choose(sprites.size())];
    if (std::find(scene.objects.begin(), scene.objects.end(), next) == scene.objects.end())
      scene.objects.push_back(next);
  }
  return scene;
}

Scene confused(const Scene& scene, const std::vector<Index>& sprites, mole::RandomStream random) {
  Draw draw(random);
  Scene other = scene;
  if (scene.layout != Layout::alone) {
    const std::size_t n = scene.objects.size(), a = draw.choose(n), b = (a + 1 + draw.choose(n - 1)) % n;
    std::swap(other.objects[a], other.objects[b]);
    return other;
  }
  MOLE_CHECK_ARG(sprites.size() >= 2, "confused: expected two sprites or more, got", sprites.size());
  while (other.objects.front() == scene.objects.front())
    other.objects.front() = sprites[draw.choose(sprites.size())];
  return other;
}

}  // namespace pictures
